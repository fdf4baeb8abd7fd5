//! Builds the small programs for their one use: static, small, and ending at once where others would unwind.
//! Cargo cannot do that for a part of a workspace, so it is called again, with the same lock file and a target
//! directory of its own.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: [&str; 4] = ["teamster-init", "teamster-keeper", "teamster-shim", "teamster-runc"];

/// No loader in a container's image is to be relied on, and what needs no relocation starts faster.
const FLAGS: &str = "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static";

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let init = here.parent().ok_or("this crate has no parent")?;
    let workspace = init.parent().ok_or("the parent has none")?;
    for path in [init.join("src"), init.join("Cargo.toml"), workspace.join("Cargo.toml")] {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    build(workspace, &out.join("target"))?;
    let made = out.join("target").join(env::var("TARGET")?).join("tiny");
    for program in PROGRAMS {
        fs::copy(made.join(program), out.join(program))?;
    }
    Ok(())
}

fn build(workspace: &Path, target_dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo
        .current_dir(workspace)
        // Everything has been fetched for this build already; nothing is to be resolved anew.
        .args(["build", "--offline", "--package", "teamster-init", "--bins", "--profile", "tiny"])
        .args(["--target", &env::var("TARGET")?, "--target-dir"])
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS);
    // What a linter or a coverage tool set up for the outer build is not for these.
    for variable in ["RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "CARGO_TARGET_DIR", "RUSTFLAGS"] {
        cargo.env_remove(variable);
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err("the programs beside tasks could not be built; linking them static needs libc.a \
                    (Debian: libc6-dev, Fedora: glibc-static)"
            .into());
    }
    Ok(())
}
