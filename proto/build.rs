//! Generates the Rust side of the wire contracts with `protoc`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().compile_protos(&["proto/teamster/agent/v1/agent.proto"], &["proto"])?;
    let out_dir = std::env::var_os("OUT_DIR").expect("cargo tells build scripts where to write");
    // The public contract is also described to clients that ask for it at run time.
    tonic_prost_build::configure()
        .file_descriptor_set_path(Path::new(&out_dir).join("tes.v1.bin"))
        .compile_protos(&["proto/tes/v1/tes.proto"], &["proto"])
}
