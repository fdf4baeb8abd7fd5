//! Decides what is mounted where in a task's containers. Pure.
//!
//! Only directories are mounted, never files. A container directory becomes one of three things: a place
//! inside shared storage, which every task sees whole at its own path; a directory of shared storage bound
//! under another name; or private scratch, into which inputs are linked and from which outputs are copied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use teamster_values::AbsolutePath;

use super::check::{Item, parent, refusal};
use crate::assignment::FileKind;

/// More private mounts than this are brought together under a common parent.
const SCRATCH_MOUNTS_MAX: usize = 32;

/// What has to be laid out.
pub(super) struct Wanted<'a> {
    pub(super) items: &'a [Item],
    /// Roots of the storages.
    pub(super) storages: &'a [AbsolutePath],
    /// Must be private and empty at the start: volumes, `/tmp` and the like.
    pub(super) private: &'a BTreeSet<AbsolutePath>,
    /// Must be writable, whatever they are: parents of streams, HOME.
    pub(super) writable: &'a BTreeSet<AbsolutePath>,
    /// Must be there if they lie in something private: working directories, which an image may have.
    pub(super) useful: &'a BTreeSet<AbsolutePath>,
}

/// What is decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Container directories and what they are, outermost first.
    pub(super) mounts: BTreeMap<AbsolutePath, Place>,
    /// Directories inside scratch mounts, parents first: the mount, and what is below it.
    pub(super) subdirectories: Vec<(AbsolutePath, PathBuf)>,
}

/// What a container directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A storage, whole, at its own path.
    Storage,
    /// A directory of shared storage under another name.
    Bound { target: AbsolutePath, storage: AbsolutePath, read_only: bool, field: String },
    /// Private.
    Scratch,
}

/// Decides.
pub(super) fn layout(wanted: &Wanted<'_>) -> Layout {
    let bound = bound_directories(wanted);
    let is_covered = |path: &AbsolutePath| {
        wanted.storages.iter().any(|storage| path.starts_with(storage)) || nearest(&bound, path).is_some()
    };
    let mut scratch: BTreeSet<AbsolutePath> =
        wanted.items.iter().map(Item::directory).filter(|directory| !is_covered(directory)).collect();
    scratch.extend(wanted.private.iter().filter(|path| !is_covered(path)).cloned());
    scratch.extend(wanted.writable.iter().filter(|path| !is_covered(path)).cloned());
    let outermost = gather(outermost(&scratch), wanted);
    // Whatever lies inside a scratch mount needs a directory there: other scratch, and mount points.
    let mut inside = scratch;
    inside.extend(wanted.useful.iter().filter(|path| !is_covered(path)).cloned());
    let mut mounts: BTreeMap<AbsolutePath, Place> = bound;
    mounts.extend(wanted.storages.iter().map(|path| (path.clone(), Place::Storage)));
    inside.extend(mounts.keys().cloned());
    let subdirectories = subdirectories(&outermost, &inside);
    mounts.extend(outermost.into_iter().map(|path| (path, Place::Scratch)));
    Layout { mounts, subdirectories }
}

/// The entry at `path` or nearest above it.
pub(super) fn nearest<'a, V>(
    map: &'a BTreeMap<AbsolutePath, V>,
    path: &AbsolutePath,
) -> Option<(&'a AbsolutePath, &'a V)> {
    let mut next = Some(path.clone());
    while let Some(path) = next {
        if let Some(entry) = map.get_key_value(&path) {
            return Some(entry);
        }
        next = path.parent();
    }
    None
}

/// Container directories that are bound: everything that the task places or leaves at or below one lies at
/// the same place below one directory of storage, and something is an output or the directory is an input as
/// such. Only the outermost are returned.
fn bound_directories(wanted: &Wanted<'_>) -> BTreeMap<AbsolutePath, Place> {
    let mut candidates = BTreeMap::new();
    for item in wanted.items {
        let Some(target) = &item.target else { continue };
        let target_directory = match item.kind {
            FileKind::Directory => target.path.clone(),
            FileKind::File if item.is_output => parent(&target.path),
            FileKind::File => continue,
        };
        // A file in the root of its storage has its parent there; one that *is* the root has not.
        if target_directory.starts_with(&target.storage) {
            let place = (target_directory, target.storage.clone(), item.field.clone());
            candidates.entry(item.directory()).or_insert(place);
        }
    }
    let mut sorted: Vec<&Item> = wanted.items.iter().collect();
    sorted.sort_by(|one, other| one.path.cmp(&other.path));
    let mut bound: BTreeMap<AbsolutePath, Place> = BTreeMap::new();
    for (directory, (target, storage, field)) in candidates {
        if nearest(&bound, &directory).is_some() || must_not_be_bound(wanted, &directory) {
            continue;
        }
        let below = at_or_below(&sorted, &directory);
        if below.iter().all(|item| coincides(item, &directory, &target)) {
            let read_only = !below.iter().any(|item| item.is_output);
            bound.insert(directory.clone(), Place::Bound { target, storage, read_only, field });
        }
    }
    bound
}

/// The items at or below a directory, out of all items sorted by path. A task may have very many, so this
/// looks only at those whose path begins with the same text.
fn at_or_below<'a>(sorted: &[&'a Item], directory: &AbsolutePath) -> Vec<&'a Item> {
    let start = sorted.partition_point(|item| item.path < *directory);
    let same_text =
        sorted[start..].iter().take_while(|item| item.path.as_str().starts_with(directory.as_str()));
    same_text.copied().filter(|item| item.path.starts_with(directory)).collect()
}

/// Whether the item lies at the same place below `target` as below `directory`.
fn coincides(item: &Item, directory: &AbsolutePath, target: &AbsolutePath) -> bool {
    item.target.as_ref().is_some_and(|there| {
        there.path.strip_prefix(target) == item.path.strip_prefix(directory) && there.path.starts_with(target)
    })
}

/// Nothing is bound inside a storage (a mount point would be left there), over one, or over private places.
fn must_not_be_bound(wanted: &Wanted<'_>, directory: &AbsolutePath) -> bool {
    wanted.private.iter().any(|path| path.starts_with(directory))
        || wanted.storages.iter().any(|path| path.starts_with(directory) || directory.starts_with(path))
}

/// Those that lie in no other.
fn outermost(paths: &BTreeSet<AbsolutePath>) -> BTreeSet<AbsolutePath> {
    let lies_in_another = |path: &AbsolutePath| {
        let mut next = path.parent();
        while let Some(parent) = next {
            if paths.contains(&parent) {
                return true;
            }
            next = parent.parent();
        }
        false
    };
    paths.iter().filter(|path| !lies_in_another(path)).cloned().collect()
}

/// Engines place thousands of inputs each in a directory of its own. Their mounts are brought together, the
/// deepest first, where a common parent may be private too.
fn gather(mut paths: BTreeSet<AbsolutePath>, wanted: &Wanted<'_>) -> BTreeSet<AbsolutePath> {
    let may_be_private = |path: &AbsolutePath| {
        refusal(path).is_none() && !wanted.storages.iter().any(|storage| path.starts_with(storage))
    };
    while paths.len() > SCRATCH_MOUNTS_MAX {
        let depth = paths.iter().map(AbsolutePath::depth).max().unwrap_or(0);
        let raised = paths.iter().map(|path| {
            let parent = path.parent().filter(|parent| path.depth() == depth && may_be_private(parent));
            parent.unwrap_or_else(|| path.clone())
        });
        let raised = outermost(&raised.collect());
        if raised == paths {
            break;
        }
        paths = raised;
    }
    paths
}

/// Every directory on the way from a scratch mount to what lies inside it.
fn subdirectories(
    scratch: &BTreeSet<AbsolutePath>,
    inside: &BTreeSet<AbsolutePath>,
) -> Vec<(AbsolutePath, PathBuf)> {
    let mounts: BTreeMap<AbsolutePath, ()> = scratch.iter().map(|path| (path.clone(), ())).collect();
    let mut made = BTreeSet::new();
    for path in inside {
        let Some((mount, ())) = nearest(&mounts, path) else { continue };
        let Some(relative) = path.strip_prefix(mount) else { continue };
        let mut way = PathBuf::new();
        for component in relative.components() {
            way.push(component);
            made.insert((mount.clone(), way.clone()));
        }
    }
    made.into_iter().collect()
}
