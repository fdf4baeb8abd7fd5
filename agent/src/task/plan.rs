//! From an assignment and this node's policy to everything that is done for it: which directories are made,
//! pinned and mounted, which files are moved, and each container's complete specification. Pure: it touches
//! no file, so whether a path exists is found out later, by the staging child.

mod check;
mod layout;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use teamster_values::{AbsolutePath, parse_storage_url};

use self::check::{Item, parent};
use self::layout::{Layout, Place, Wanted};
use crate::assignment::{Assignment, Executor, FileKind, InputSource};
use crate::attempt_dir::AttemptDir;
use crate::config::{Sandbox, StorageConfig};
use crate::runtime::{Bind, ContainerId, ContainerSpec, Image, Keeping};
use crate::stage::{Directory, InputFrom, InputWork, Mount, OutputWork, Pin, ScratchDir};
use crate::storage;

pub use crate::stage::Plan;

/// HOME of a task that names none.
const HOME: &str = "/home/task";

/// Where programs are looked for when neither image nor task says so.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Always there, writable and empty at the start.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// The kernel's own trees; nothing works or is written there on a task's behalf.
const KERNEL_TREES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The most mounts of a container; each costs the node kernel memory and the start of the container time.
const MOUNTS_MAX: usize = 256;

/// Why an assignment cannot be laid out on this node: every field that is wrong, with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct PlanError {
    /// Field and reason, in the order of the task.
    pub fields: Vec<(String, String)>,
}

impl PlanError {
    fn add(&mut self, field: impl Into<String>, reason: impl fmt::Display) {
        self.fields.push((field.into(), reason.to_string()));
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (field, reason)) in self.fields.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{field}: {reason}")?;
        }
        Ok(())
    }
}

/// Decides everything about an attempt that can be decided without looking at a file.
pub fn plan(
    assignment: &Assignment,
    sandbox: &Sandbox,
    storages: &[StorageConfig],
    dir: &AttemptDir,
) -> Result<Plan, PlanError> {
    let mut errors = PlanError::default();
    let items = check::items(assignment, storages, &mut errors);
    let roots: Vec<AbsolutePath> = storages.iter().map(|storage| storage.path.clone()).collect();
    let private = private_directories(assignment, &roots, &mut errors);
    let writable = writable_directories(assignment, &mut errors);
    let fixed: Vec<AbsolutePath> = private.iter().chain(&writable).chain(&roots).cloned().collect();
    check::check_together(&items, &fixed, &mut errors);
    if !errors.fields.is_empty() {
        return Err(errors);
    }
    let useful = assignment.executors.iter().filter_map(|executor| executor.workdir.clone()).collect();
    let layout = layout::layout(&Wanted {
        items: &items,
        storages: &roots,
        private: &private,
        writable: &writable,
        useful: &useful,
    });
    if layout.mounts.len() > MOUNTS_MAX {
        let reason = format!("need {} mounts; put them into fewer directories", layout.mounts.len());
        errors.add("inputs, outputs and volumes", reason);
        return Err(errors);
    }
    let (mounts, pins) = mounts(&layout, storages, dir);
    Ok(Plan {
        identity: sandbox.identity(),
        sandbox: sandbox.clone(),
        dir: dir.clone(),
        mounts,
        pins,
        scratch: scratch(&layout, assignment.executors.len()),
        directories: directories(&items, assignment, &layout),
        inputs: inputs(assignment, &items),
        outputs: outputs(assignment, &items),
        assignment: assignment.clone(),
    })
}

impl Plan {
    /// All that the runtime must know to make an executor's container from an image. `executor` is the index
    /// of one of the assignment's executors, `log_max_bytes` how much is kept of a stream that is only a log.
    pub fn container(&self, executor: u32, image: Image, log_max_bytes: u64) -> ContainerSpec {
        let spec = &self.assignment.executors[executor as usize];
        let safe = |path: &AbsolutePath| !KERNEL_TREES.iter().any(|tree| path.as_path().starts_with(tree));
        let of_image = image.workdir.clone().filter(safe);
        let workdir = spec.workdir.clone().or(of_image).unwrap_or_else(AbsolutePath::root);
        let bind = |mount: &Mount| Bind {
            source: mount.source.clone(),
            destination: mount.destination.clone(),
            read_only: mount.read_only,
            follows_mounts: mount.follows_mounts,
        };
        ContainerSpec {
            id: ContainerId { attempt: self.assignment.id, executor },
            args: self.arguments(&image, spec),
            env: environment(&image, spec),
            workdir,
            workdir_scratch: self.dir.scratch().join(self.workdir_scratch(spec, executor)),
            binds: self.mounts.iter().map(bind).collect(),
            identity: self.identity,
            pids_max: self.sandbox.pids_max,
            open_files_max: self.sandbox.open_files_max,
            // A part of the task's memory, so that room is left for the program itself.
            shm_bytes: self.assignment.limits.memory_bytes / 100 * u64::from(self.sandbox.shm_percent),
            limits: self.assignment.limits,
            stdin: spec.stdin.is_some().then(|| self.dir.stdin(executor)),
            stdout: self.dir.stdout(executor),
            stderr: self.dir.stderr(executor),
            private: self.dir.private(),
            network: self.assignment.network.unwrap_or_default(),
            keeping: self.keeping(spec, executor, log_max_bytes),
            image,
        }
    }

    fn arguments(&self, image: &Image, spec: &Executor) -> Vec<String> {
        let entrypoint = self.assignment.image_entrypoint.then_some(&image.entrypoint);
        entrypoint.into_iter().flatten().chain(&spec.command).cloned().collect()
    }

    /// A stream that the task names a file for is its output, and never cut.
    fn keeping(&self, spec: &Executor, executor: u32, log_max_bytes: u64) -> Keeping {
        let limit = |is_named: bool| (!is_named).then_some(log_max_bytes);
        Keeping {
            talk: self.dir.talk(executor),
            record: self.dir.keeper_record(executor),
            lease: self.dir.lease(),
            lease_length: self.assignment.lease,
            stdout_max_bytes: limit(spec.stdout.is_some()),
            stderr_max_bytes: limit(spec.stderr.is_some()),
        }
    }

    /// Executors that name the same working directory share the one that is made for it.
    fn workdir_scratch(&self, spec: &Executor, executor: u32) -> String {
        let first = self.assignment.executors.iter().position(|other| other.workdir == spec.workdir);
        workdir_name(first.unwrap_or(executor as usize))
    }
}

fn workdir_name(executor: usize) -> String {
    format!("workdir-{executor}")
}

/// The image's variables, over them what a task needs here, over all what the task says.
fn environment(image: &Image, executor: &Executor) -> Vec<String> {
    let mut env: BTreeMap<&str, &str> = BTreeMap::from([("PATH", PATH)]);
    // The runtime starts nothing with a variable that has no name, or with a NUL in it.
    let is_sane =
        |(name, value): &(&str, &str)| !name.is_empty() && !name.contains('\0') && !value.contains('\0');
    env.extend(image.env.iter().filter_map(|entry| entry.split_once('=')).filter(is_sane));
    env.extend([("HOME", HOME), ("TMPDIR", TEMPORARY[0])]);
    env.extend(executor.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn path(text: &str) -> Option<AbsolutePath> {
    AbsolutePath::parse(text).ok()
}

/// Volumes and the temporary directories.
fn private_directories(
    assignment: &Assignment,
    roots: &[AbsolutePath],
    errors: &mut PlanError,
) -> BTreeSet<AbsolutePath> {
    let mut private: BTreeSet<_> = TEMPORARY.iter().filter_map(|text| path(text)).collect();
    for (index, volume) in assignment.volumes.iter().enumerate() {
        let on_storage = roots.iter().find(|root| volume.starts_with(root));
        let reason = match on_storage {
            Some(root) => Some(format!("lies on shared storage ({root}), where it would not be empty")),
            None => check::refusal(volume),
        };
        match reason {
            Some(reason) => errors.add(format!("volumes[{index}]"), reason),
            None => drop(private.insert(volume.clone())),
        }
    }
    private
}

/// Directories that must be writable because of what executors name.
fn writable_directories(assignment: &Assignment, errors: &mut PlanError) -> BTreeSet<AbsolutePath> {
    let mut writable = BTreeSet::new();
    for (index, executor) in assignment.executors.iter().enumerate() {
        for (name, stream) in [("stdout", &executor.stdout), ("stderr", &executor.stderr)] {
            let Some(stream) = stream else { continue };
            match check::refusal(&parent(stream)) {
                Some(reason) => errors.add(format!("executors[{index}].{name}"), reason),
                None => drop(writable.insert(parent(stream))),
            }
        }
        if executor.stdout.is_some() && executor.stdout == executor.stderr {
            errors.add(format!("executors[{index}].stderr"), "is the same file as stdout");
        }
        for (name, used) in [("stdin", &executor.stdin), ("workdir", &executor.workdir)] {
            let in_kernel =
                |path: &AbsolutePath| KERNEL_TREES.iter().any(|tree| path.as_path().starts_with(tree));
            if used.as_ref().is_some_and(in_kernel) {
                errors.add(format!("executors[{index}].{name}"), "must not lie in /proc, /sys or /dev");
            }
        }
        // HOME is a wish like any variable: one that cannot be had is left to the image.
        let home = path(executor.env.get("HOME").map_or(HOME, String::as_str));
        writable.extend(home.filter(|home| check::refusal(home).is_none()));
    }
    writable
}

/// The layout as mounts of a container, and what has to be pinned for them.
fn mounts(layout: &Layout, storages: &[StorageConfig], dir: &AttemptDir) -> (Vec<Mount>, Vec<Pin>) {
    let (mut mounts, mut pins) = (Vec::new(), Vec::new());
    let names = scratch_names(layout);
    for (destination, place) in &layout.mounts {
        let plain = |source: PathBuf, read_only| Mount {
            source,
            destination: destination.clone(),
            read_only,
            follows_mounts: false,
        };
        match place {
            Place::Scratch => mounts.push(plain(dir.scratch().join(&names[destination]), false)),
            Place::Bound { target, storage, read_only, field } => {
                let at = dir.binds().join(pins.len().to_string());
                mounts.push(plain(at.clone(), *read_only));
                pins.push(Pin {
                    field: field.clone(),
                    storage: storage.clone(),
                    relative: target.strip_prefix(storage).unwrap_or(Path::new("")).to_owned(),
                    create: !read_only,
                    at,
                });
            }
            Place::Storage => {
                let bind = storages.iter().find(|storage| storage.path == *destination).map(storage::bind);
                mounts.extend(bind.map(|bind| Mount {
                    source: bind.source,
                    destination: bind.destination,
                    read_only: bind.read_only,
                    follows_mounts: bind.follows_mounts,
                }));
            }
        }
    }
    (mounts, pins)
}

/// Scratch mounts are numbered in the order of their paths, so that a later plan of the same task agrees.
fn scratch_names(layout: &Layout) -> BTreeMap<&AbsolutePath, String> {
    let scratch = layout.mounts.iter().filter(|(_, place)| **place == Place::Scratch);
    scratch.enumerate().map(|(number, (path, _))| (path, number.to_string())).collect()
}

/// Private directories below the attempt's `scratch/`, parents first.
fn scratch(layout: &Layout, executors: usize) -> Vec<ScratchDir> {
    let names = scratch_names(layout);
    let top = names.iter().map(|(path, name)| ScratchDir {
        relative: name.into(),
        open_to_all: TEMPORARY.contains(&path.as_str()),
    });
    let inner = layout
        .subdirectories
        .iter()
        .map(|(mount, way)| ScratchDir { relative: Path::new(&names[mount]).join(way), open_to_all: false });
    let workdirs =
        (0..executors).map(|index| ScratchDir { relative: workdir_name(index).into(), open_to_all: false });
    top.chain(inner).chain(workdirs).collect()
}

/// Directories on shared storage that must be there before the task begins. One that is only a directory
/// output inside another output's directory is left to the task: engines' scripts make those themselves.
fn directories(items: &[Item], assignment: &Assignment, layout: &Layout) -> Vec<Directory> {
    let mut wanted: BTreeMap<AbsolutePath, String> = BTreeMap::new();
    let files_in: BTreeSet<_> = items
        .iter()
        .filter(|item| item.is_output && item.kind == FileKind::File)
        .map(Item::directory)
        .collect();
    for item in items {
        let in_place = item.target.as_ref().is_some_and(|target| target.path == item.path);
        let directory = match item.kind {
            FileKind::File if item.is_output => item.directory(),
            FileKind::Directory if item.is_output && !files_in.contains(&parent(&item.path)) => {
                item.directory()
            }
            _ if item.is_output || in_place => continue,
            _ => parent(&item.path),
        };
        wanted.entry(directory).or_insert_with(|| item.field.clone());
    }
    for (index, executor) in assignment.executors.iter().enumerate() {
        for (name, directory) in [
            ("workdir", executor.workdir.clone()),
            ("stdout", executor.stdout.as_ref().map(parent)),
            ("stderr", executor.stderr.as_ref().map(parent)),
        ] {
            let Some(directory) = directory else { continue };
            wanted.entry(directory).or_insert_with(|| format!("executors[{index}].{name}"));
        }
    }
    let is_left_to_the_user = |path: &AbsolutePath| match layout::nearest(&layout.mounts, path) {
        Some((_, Place::Storage)) => true,
        // The root of a bound directory is made when it is pinned.
        Some((mount, Place::Bound { read_only, .. })) => mount != path && !read_only,
        Some((_, Place::Scratch)) | None => false,
    };
    wanted
        .into_iter()
        .filter(|(path, _)| is_left_to_the_user(path))
        .map(|(path, field)| Directory { field, path })
        .collect()
}

fn inputs(assignment: &Assignment, items: &[Item]) -> Vec<InputWork> {
    let with_item = assignment.inputs.iter().zip(items);
    let work = with_item.filter_map(|(input, item)| {
        let source = match (&input.source, &item.target) {
            (InputSource::Content(content), _) => InputFrom::Content(content.clone()),
            (InputSource::Url(url), Some(target)) => {
                InputFrom::Storage { path: target.path.clone(), url: url.clone() }
            }
            (InputSource::Url(_), None) => return None,
        };
        Some(InputWork { field: item.field.clone(), at: item.path.clone(), source })
    });
    work.collect()
}

fn outputs(assignment: &Assignment, items: &[Item]) -> Vec<OutputWork> {
    let with_item = assignment.outputs.iter().zip(&items[assignment.inputs.len()..]);
    let work = with_item.filter_map(|(output, item)| {
        let (from, to) = match &output.wildcards {
            None => (item.path.clone(), item.target.as_ref()?.path.clone()),
            Some(wildcards) => (wildcards.prefix.clone(), parse_storage_url(&output.url).ok()?),
        };
        Some(OutputWork {
            field: item.field.clone(),
            from,
            to,
            url: output.url.trim_end_matches('/').to_owned(),
            pattern: output.wildcards.as_ref().map(|wildcards| wildcards.pattern.clone()),
        })
    });
    work.collect()
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
