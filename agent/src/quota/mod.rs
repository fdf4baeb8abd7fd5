//! Project quota: the hard limit on what an attempt may have on the node's disk, where the file system has one.
//! Each attempt gets a project, its directories belong to it, and the kernel refuses what would be too much. Which
//! attempt has which project is written nowhere but on its directories, so there is nothing that could disagree.
//!
//! A limit is set only on a project that has files, and taken away only when its files are gone. So one without
//! files is left over from an agent that was killed, whoever's it was, and may be taken away; a project with files
//! or a limit is in use, whoever uses it, and is left alone.

mod kernel;
mod known;
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::place::{Place, Unfit, open};
use crate::assignment::AttemptId;
use crate::attempt_dir::AttemptDir;
use crate::config::DiskSettings;

/// How many projects are looked at in search of a free one.
const SEARCH_MAX: u32 = 10_000;

/// What one attempt may have on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// Space.
    pub bytes: u64,
    /// Files, directories and links.
    pub files: u64,
}

/// What an attempt has, by the kernel's count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Space.
    pub bytes: u64,
    /// Files, directories and links.
    pub files: u64,
}

/// Why an attempt has no hard limit. The texts fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    /// The file system refused.
    #[error("limit the disk space of a task: {0}")]
    Io(#[from] io::Error),
    /// What is in its directory was made without a project, and would not be counted.
    #[error("limit the disk space of a task: it has files already")]
    HasFiles,
    /// Somebody uses them all.
    #[error("find a free project between {} and {}", .0.start, .0.end - 1)]
    NoneFree(Range<u32>),
}

/// The projects of this agent's attempts. The default has none, and limits nothing.
#[derive(Debug, Default)]
pub struct Quotas {
    ids: Range<u32>,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// File systems with project quota, that of the data directory first. None when that has none.
    places: Vec<Place>,
    /// Other file systems that were looked at and have none.
    without: BTreeSet<u64>,
    taken: BTreeMap<AttemptId, u32>,
    /// Where the next search begins.
    next: u32,
    /// Projects that belong to others by this machine's own files.
    foreign: BTreeSet<u32>,
}

impl Quotas {
    /// Finds out, and says, whether what lies in `data_dir` can be limited. Blocks for a short time.
    pub fn open(data_dir: &Path, settings: &DiskSettings) -> Self {
        let ids = settings.first_project..settings.first_project + settings.projects;
        // From anywhere, so that agents which share a file system hardly ever meet.
        let anywhere = RandomState::new().hash_one(data_dir) % u64::from(settings.projects.max(1));
        let book = Book {
            next: ids.start + u32::try_from(anywhere).unwrap_or_default(),
            foreign: known::ids(Path::new("/etc")),
            ..Book::default()
        };
        let path = data_dir.display();
        let quotas = Self { ids, book: Mutex::new(book) };
        if settings.projects == 0 {
            tracing::info!(%path, "disk space of tasks is watched; project quota is switched off");
            return quotas;
        }
        match quotas.try_out(data_dir) {
            Ok(()) => tracing::info!(%path, "disk space of tasks has a hard limit by project quota"),
            Err(reason) => {
                let reason = reason.to_string();
                tracing::info!(%path, reason, "disk space of tasks is watched and has no hard limit");
            }
        }
        quotas
    }

    fn try_out(&self, data_dir: &Path) -> Result<(), Unfit> {
        let place = Place::of(data_dir)?;
        let mut book = self.book();
        book.places.push(place);
        let tried = match self.free_project(&mut book) {
            Ok(id) => book.places[0].try_out(data_dir, id),
            Err(error) => Err(io::Error::other(error).into()),
        };
        if tried.is_err() {
            book.places.clear();
        }
        tried
    }

    /// Whether attempts get hard limits here.
    pub fn are_on(&self) -> bool {
        !self.book().places.is_empty()
    }

    /// One or two words for people.
    pub fn summary(&self) -> &'static str {
        if self.are_on() { "project quota" } else { "watched" }
    }

    /// Learns from their directories which projects the attempts have that an agent before this one left, and
    /// takes limits away that are nobody's. Blocks for a short time.
    pub fn adopt(&self, data_dir: &Path, attempts: impl IntoIterator<Item = AttemptId>) {
        let mut book = self.book();
        if book.places.is_empty() {
            return;
        }
        for attempt in attempts {
            let scratch = AttemptDir::new(data_dir, attempt).scratch();
            let found = open(&scratch).and_then(kernel::project_of);
            if let Some(id) = found.ok().filter(|id| self.ids.contains(id)) {
                book.taken.insert(attempt, id);
            }
        }
        drop(book);
        self.sweep();
    }

    /// Makes the attempt's scratch directory, belonging to a project of its own with these limits. It may be done
    /// again. Does nothing where there is no project quota. Blocks for a short time.
    pub fn enclose(
        &self,
        attempt: AttemptId,
        dir: &AttemptDir,
        limits: DiskLimits,
    ) -> Result<(), QuotaError> {
        let mut book = self.book();
        if book.places.is_empty() {
            return Ok(());
        }
        let scratch = dir.scratch();
        match DirBuilder::new().mode(0o700).create(&scratch) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        let directory = open(&scratch)?;
        let had = kernel::project_of(&directory)?;
        if !self.ids.contains(&had) && std::fs::read_dir(&scratch)?.next().is_some() {
            return Err(QuotaError::HasFiles);
        }
        let id = if self.ids.contains(&had) { had } else { self.free_project(&mut book)? };
        // In this order: a limit without a file is anybody's to take away.
        kernel::enter_project(&directory, id)?;
        book.places[0].limit(id, limits)?;
        book.taken.insert(attempt, id);
        Ok(())
    }

    /// Puts directories that were made for the attempt elsewhere, and are empty, under the same limits, if it has
    /// any and the file system there can. Blocks for a short time.
    pub fn enclose_too(&self, attempt: AttemptId, directories: &[PathBuf]) -> Result<(), QuotaError> {
        for path in directories {
            let Some(id) = self.book().taken.get(&attempt).copied() else { return Ok(()) };
            self.meet(path)?;
            let directory = open(path)?;
            let device = rustix::fs::fstat(&directory).map_err(io::Error::from)?.st_dev;
            let book = self.book();
            let Some(place) = book.places.iter().find(|place| place.device == device) else { continue };
            kernel::enter_project(&directory, id)?;
            if place.device != book.places[0].device {
                let home = book.places[0].project(id)?;
                place.limit(id, DiskLimits { bytes: home.bytes_max, files: home.files_max })?;
            }
        }
        Ok(())
    }

    /// Takes note of the file system of `path`, and says at the first time how that is with project quota. Does
    /// nothing where the data directory has none.
    pub fn meet(&self, path: &Path) -> io::Result<()> {
        let device = std::fs::metadata(path)?.dev();
        let mut book = self.book();
        let is_known = book.without.contains(&device) || book.places.iter().any(|one| one.device == device);
        if is_known || book.places.is_empty() {
            return Ok(());
        }
        let path_text = path.display();
        match Place::of(path) {
            Ok(place) => {
                book.places.push(place);
                tracing::info!(path = %path_text, "project quota limits what containers write there, too");
            }
            Err(reason) => {
                book.without.insert(device);
                let reason = reason.to_string();
                tracing::info!(path = %path_text, reason, "what containers write there has no hard limit");
            }
        }
        drop(book);
        self.sweep();
        Ok(())
    }

    /// What an attempt has on all file systems together; none when it has no project.
    pub fn usage(&self, attempt: AttemptId) -> Option<io::Result<Usage>> {
        let book = self.book();
        let id = *book.taken.get(&attempt)?;
        let all = book.places.iter().map(|place| place.usage(id));
        Some(all.sum())
    }

    /// Takes the limits of an attempt away whose directories are gone. Blocks for a short time.
    pub fn release(&self, attempt: AttemptId) -> io::Result<()> {
        let mut book = self.book();
        let Some(id) = book.taken.get(&attempt).copied() else { return Ok(()) };
        book.places.iter().try_for_each(|place| place.release(id))?;
        book.taken.remove(&attempt);
        Ok(())
    }

    /// Takes limits away that are nobody's. Blocks for a short time.
    pub fn sweep(&self) {
        let book = self.book();
        let taken: BTreeSet<u32> = book.taken.values().copied().collect();
        for place in &book.places {
            let limited = match place.limited(&self.ids) {
                Ok(limited) => limited,
                Err(error) => {
                    tracing::warn!(%error, "failed to look for limits on disk space that are left over");
                    continue;
                }
            };
            let mine = |id: &u32| !taken.contains(id) && !book.foreign.contains(id);
            for project in limited.iter().filter(|project| mine(&project.id) && !project.has_files()) {
                let id = project.id;
                match place.release(id) {
                    Ok(()) => tracing::info!(project = id, "a limit on disk space was left over; taken away"),
                    Err(error) => {
                        tracing::warn!(project = id, %error, "failed to take a limit on disk space away");
                    }
                }
            }
        }
    }

    /// A project that nobody uses.
    fn free_project(&self, book: &mut Book) -> Result<u32, QuotaError> {
        let count = self.ids.end - self.ids.start;
        for step in 0..count.min(SEARCH_MAX) {
            let id = self.ids.start + (book.next - self.ids.start + step) % count;
            if book.foreign.contains(&id) || book.taken.values().any(|taken| *taken == id) {
                continue;
            }
            let is_used =
                |place: &Place| place.project(id).map(|found| found.has_files() || found.has_limit());
            let used = book.places.iter().map(is_used).collect::<io::Result<Vec<bool>>>()?;
            if !used.contains(&true) {
                // The one that was used last rests: some file systems are slow to count what is deleted.
                book.next = self.ids.start + (id + 1 - self.ids.start) % count;
                return Ok(id);
            }
        }
        Err(QuotaError::NoneFree(self.ids.clone()))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            bytes: sum.bytes + one.bytes,
            files: sum.files + one.files,
        })
    }
}
