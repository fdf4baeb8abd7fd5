//! Looks at every path and URL of an assignment on its own, before anything is laid out: which may not be
//! used, and where on this node's storage the URLs lie. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use teamster_values::{AbsolutePath, parse_storage_url};

use super::PlanError;
use crate::assignment::{Assignment, FileKind, InputSource};
use crate::config::StorageConfig;

/// Directories of which nothing may be replaced, with all that is below them: the kernel's, and those that
/// hold the programs and the configuration of every image.
const CLOSED: [&str; 9] = ["/proc", "/sys", "/dev", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64"];

/// Directories in which images keep what they need, so that hiding one would break the image. Other
/// directories below them are free.
const HOLDING: [&str; 19] = [
    "/",
    "/boot",
    "/opt",
    "/run",
    "/usr",
    "/usr/bin",
    "/usr/include",
    "/usr/lib",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/local/sbin",
    "/usr/local/share",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/lib",
];

/// The deepest path that is taken.
const DEPTH_MAX: usize = 64;

/// A file or directory of the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// `inputs[3]`.
    pub(super) field: String,
    /// In the container.
    pub(super) path: AbsolutePath,
    pub(super) kind: FileKind,
    pub(super) is_output: bool,
    /// On shared storage; none for given content.
    pub(super) target: Option<Target>,
}

/// A place on shared storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) path: AbsolutePath,
    /// Root of its storage.
    pub(super) storage: AbsolutePath,
}

impl Item {
    /// The directory of the container that has to be there for it.
    pub(super) fn directory(&self) -> AbsolutePath {
        match self.kind {
            FileKind::Directory => self.path.clone(),
            FileKind::File => parent(&self.path),
        }
    }
}

pub(super) fn parent(path: &AbsolutePath) -> AbsolutePath {
    path.parent().unwrap_or_else(AbsolutePath::root)
}

/// Whether a mount may take the place of this directory of an image.
pub(super) fn refusal(directory: &AbsolutePath) -> Option<String> {
    let closed = CLOSED.iter().find(|closed| directory.as_path().starts_with(closed));
    let holding = HOLDING.iter().find(|holding| directory.as_str() == **holding);
    let name = closed.or(holding)?;
    Some(format!("{name} is one of the image's own directories; use another, such as /data"))
}

/// All inputs and outputs, in order.
pub(super) fn items(
    assignment: &Assignment,
    storages: &[StorageConfig],
    errors: &mut PlanError,
) -> Vec<Item> {
    let mut items = Vec::with_capacity(assignment.inputs.len() + assignment.outputs.len());
    for (index, input) in assignment.inputs.iter().enumerate() {
        let field = format!("inputs[{index}]");
        let target = match &input.source {
            InputSource::Content(_) => None,
            InputSource::Url(url) => target(&field, url, storages, errors),
        };
        if matches!(input.source, InputSource::Content(_)) && input.kind == FileKind::Directory {
            errors.add(format!("{field}.type"), "content makes a FILE, not a DIRECTORY");
        }
        items.push(Item { field, path: input.path.clone(), kind: input.kind, is_output: false, target });
    }
    for (index, output) in assignment.outputs.iter().enumerate() {
        let field = format!("outputs[{index}]");
        let mut target = target(&field, &output.url, storages, errors);
        if let Some(wildcards) = &output.wildcards {
            let way = output.path.strip_prefix(&wildcards.prefix).and_then(Path::to_str);
            let there = |mut target: Target, way| {
                target.path = target.path.join(way).ok()?;
                Some(target)
            };
            target = match way.filter(|_| wildcards.pattern.directory() == output.path) {
                Some(way) => target.and_then(|target| there(target, way)),
                None => {
                    errors.add(format!("{field}.path_prefix"), "must be a directory above the wildcards");
                    None
                }
            };
        }
        // Whatever matches lies in that directory, and what the directory is laid out as holds for it, too.
        let kind = if output.wildcards.is_some() { FileKind::Directory } else { output.kind };
        items.push(Item { field, path: output.path.clone(), kind, is_output: true, target });
    }
    for item in &items {
        if let Some(reason) = refusal_of_item(item) {
            errors.add(format!("{}.path", item.field), reason);
        }
        if item.target.as_ref().is_some_and(|target| holds_itself(item, target)) {
            errors.add(format!("{}.url", item.field), "must not lie within the path, nor the path within it");
        }
    }
    items
}

/// Whether copying would never end: both are on shared storage, and one lies in the other.
fn holds_itself(item: &Item, target: &Target) -> bool {
    item.path != target.path
        && item.path.starts_with(&target.storage)
        && (item.path.starts_with(&target.path) || target.path.starts_with(&item.path))
}

fn refusal_of_item(item: &Item) -> Option<String> {
    if item.path.is_root() {
        return Some("must not be the root directory".to_owned());
    }
    if item.path.depth() > DEPTH_MAX {
        return Some(format!("must not be more than {DEPTH_MAX} directories deep"));
    }
    let directory = item.directory();
    if directory.is_root() {
        return Some("must lie in a directory, not directly in /".to_owned());
    }
    refusal(&directory)
}

fn target(field: &str, url: &str, storages: &[StorageConfig], errors: &mut PlanError) -> Option<Target> {
    let path = match parse_storage_url(url) {
        Ok(path) => path,
        Err(error) => {
            errors.add(format!("{field}.url"), error);
            return None;
        }
    };
    let Some(storage) = storages.iter().find(|storage| path.starts_with(&storage.path)) else {
        errors.add(format!("{field}.url"), format!("{path} lies on no storage of this node"));
        return None;
    };
    Some(Target { path, storage: storage.path.clone() })
}

/// Refuses paths that cannot be had together: two inputs at one place, a file where a directory must be.
pub(super) fn check_together(items: &[Item], directories: &[AbsolutePath], errors: &mut PlanError) {
    let mut inputs: BTreeMap<&AbsolutePath, &Item> = BTreeMap::new();
    for item in items.iter().filter(|item| !item.is_output) {
        match inputs.insert(&item.path, item) {
            Some(first) if first.target != item.target || item.target.is_none() => {
                errors.add(format!("{}.path", item.field), format!("is the same as {}.path", first.field));
            }
            _ => {}
        }
    }
    let mut needed: BTreeMap<AbsolutePath, &str> = BTreeMap::new();
    let wanted = items.iter().map(|item| (item.directory(), item.field.as_str()));
    for (directory, field) in wanted.chain(directories.iter().map(|path| (path.clone(), "the task"))) {
        let mut next = Some(directory);
        while let Some(path) = next.filter(|path| !needed.contains_key(path)) {
            next = path.parent();
            needed.insert(path, field);
        }
    }
    // An output that is called a file may turn out to be a directory, and is taken as one then.
    for item in items.iter().filter(|item| item.kind == FileKind::File && !item.is_output) {
        if let Some(other) = needed.get(&item.path) {
            errors.add(
                format!("{}.path", item.field),
                format!("is a FILE, but {other} needs a directory there"),
            );
        }
    }
}
