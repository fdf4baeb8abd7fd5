//! Where one stream of a container goes. A stream with a limit keeps its beginning and its end: the beginning
//! as it comes, the end in a ring that is put behind it when the stream is over, with a line that says how
//! much lies between. The file only ever grows, so whoever follows it misses nothing that is kept. A disk
//! that takes nothing loses bytes, which are counted and told of; it never holds up who writes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a disk that refused a write is left alone.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// What logs leave free of the disk, in bytes: this, or a sixteenth of a small one. The node's own records need
/// room when a task has filled the rest.
const FLOOR_BYTES: u64 = 64 << 20;
const FLOOR_PART: u64 = 16;

/// How much is copied at a time.
const PART_BYTES: usize = 64 << 10;

/// One stream.
#[derive(Debug)]
pub struct Spool {
    file: File,
    length: u64,
    head_max: u64,
    ring: Option<Ring>,
    lost: u64,
    lost_untold: u64,
    refused: Option<Instant>,
}

#[derive(Debug)]
struct Ring {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    written: u64,
    /// The beginning is full and it was said so.
    has_begun: bool,
}

impl Spool {
    /// A stream that goes to `path`, which is emptied, and keeps at most about `max_bytes`, or all.
    pub fn open(path: &Path, max_bytes: Option<u64>) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        // More of the beginning than of the end, because what is followed live is the beginning.
        let ring = max_bytes.map(|max| Ring {
            path: path.with_added_extension("ring"),
            file: None,
            size: (max / 4).max(1),
            written: 0,
            has_begun: false,
        });
        let head_max = ring.as_ref().map_or(u64::MAX, |ring| (ring.size * 3).max(1));
        Ok(Self { file, length: 0, head_max, ring, lost: 0, lost_untold: 0, refused: None })
    }

    /// Bytes that could not be kept for want of space.
    pub fn lost_bytes(&self) -> u64 {
        self.lost
    }

    /// Takes the next bytes. It cannot fail: what cannot be kept is lost.
    pub fn take(&mut self, data: &[u8]) {
        let room = match &self.ring {
            Some(ring) if ring.has_begun => 0,
            _ => usize::try_from(self.head_max.saturating_sub(self.length)).unwrap_or(usize::MAX),
        };
        let (head, rest) = data.split_at(room.min(data.len()));
        self.append(head);
        if rest.is_empty() {
            return;
        }
        let Some(ring) = &mut self.ring else { return };
        if !ring.has_begun {
            ring.has_begun = true;
            let note = format!(
                "\n[teamster: this is more than {} bytes; the last {} of the rest follow when the command has ended]\n",
                self.head_max, ring.size
            );
            self.append_note(&note);
        }
        let kept = self.ring.as_mut().map_or(0, |ring| ring.take(rest));
        self.lost += (rest.len() - kept) as u64;
    }

    /// Puts the end of the stream behind its beginning. Nothing comes after it.
    pub fn finish(&mut self) {
        // A last try, however short ago the disk refused.
        self.refused = None;
        let Some(mut ring) = self.ring.take() else { return self.tell_loss(true) };
        if ring.written > 0 {
            let cut = ring.written.saturating_sub(ring.size);
            if cut > 0 {
                self.append_note(&format!("[teamster: {cut} bytes are cut out here]\n"));
            }
            let mut part = vec![0; PART_BYTES];
            let mut from = cut;
            while from < ring.written {
                let count = ring.read(from, &mut part);
                if count == 0 {
                    self.lost += ring.written - from;
                    break;
                }
                from += count as u64;
                self.append(&part[..count]);
            }
        }
        ring.file = None;
        // One that was never made is gone as well.
        let _ = fs::remove_file(&ring.path);
        self.tell_loss(true);
    }

    fn append(&mut self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        if self.refused.is_some_and(|since| since.elapsed() < DISK_PAUSE) {
            return self.lose(data.len());
        }
        self.tell_loss(false);
        if self.lost_untold > 0 || !has_room(&self.file) {
            self.refused = Some(Instant::now());
            return self.lose(data.len());
        }
        let kept = self.write(data);
        if kept < data.len() {
            self.lose(data.len() - kept);
        }
    }

    fn lose(&mut self, count: usize) {
        self.lost += count as u64;
        self.lost_untold += count as u64;
    }

    /// Says where bytes are missing, before anything is written behind them.
    fn tell_loss(&mut self, is_last: bool) {
        // The last word is said even so: it is short.
        if self.lost_untold == 0 || !(is_last || has_room(&self.file)) {
            return;
        }
        let note =
            format!("\n[teamster: {} bytes are lost here: no space left on this node]\n", self.lost_untold);
        if self.append_note(&note) {
            self.lost_untold = 0;
        }
    }

    /// Whole or not at all.
    fn append_note(&mut self, note: &str) -> bool {
        let before = self.length;
        if self.write(note.as_bytes()) == note.len() {
            return true;
        }
        self.length = before;
        let _ = self.file.set_len(before);
        false
    }

    /// Writes as much as the disk takes.
    fn write(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            match self.file.write_at(&data[done..], self.length) {
                Ok(count) if count > 0 => {
                    done += count;
                    self.length += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.refused = Some(Instant::now());
                    return done;
                }
            }
        }
        self.refused = None;
        done
    }
}

/// Whether logs may take more of the disk. One that does not say how full it is will refuse by itself.
fn has_room(file: &File) -> bool {
    rustix::fs::fstatvfs(file).map_or(true, |disk| {
        let floor = FLOOR_BYTES.min(disk.f_blocks.saturating_mul(disk.f_frsize) / FLOOR_PART);
        disk.f_bavail.saturating_mul(disk.f_frsize) >= floor
    })
}

impl Ring {
    /// Takes the next bytes and tells how many.
    fn take(&mut self, data: &[u8]) -> usize {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true).mode(0o600);
            self.file = options.open(&self.path).ok();
        }
        let Some(file) = &self.file else { return 0 };
        if self.written < self.size && !has_room(file) {
            return 0;
        }
        let mut done = 0;
        while done < data.len() {
            let at = self.written % self.size;
            let room = usize::try_from(self.size - at).unwrap_or(usize::MAX).min(data.len() - done);
            match file.write_at(&data[done..done + room], at) {
                Ok(count) if count > 0 => {
                    done += count;
                    self.written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
        done
    }

    /// Reads from this byte of what was written to it.
    fn read(&self, from: u64, part: &mut [u8]) -> usize {
        let at = from % self.size;
        let most = (self.size - at).min(self.written - from).min(part.len() as u64) as usize;
        self.file.as_ref().and_then(|file| file.read_at(&mut part[..most], at).ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(max: Option<u64>, parts: &[&[u8]]) -> (Vec<u8>, u64) {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("stream");
        let mut spool = Spool::open(&path, max).unwrap();
        for part in parts {
            let before = fs::read(&path).unwrap();
            spool.take(part);
            assert!(fs::read(&path).unwrap().starts_with(&before), "it only grows");
        }
        spool.finish();
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1, "the ring is gone");
        (fs::read(&path).unwrap(), spool.lost_bytes())
    }

    #[test]
    fn what_fits_is_kept_as_it_is() {
        assert_eq!(kept(Some(400), &[b"one", b"", b"two"]), (b"onetwo".to_vec(), 0));
        assert_eq!(kept(None, &[&[7; 100_000]]), (vec![7; 100_000], 0));
    }

    #[test]
    fn of_a_flood_the_beginning_and_the_end_are_kept_however_it_comes() {
        let flood: Vec<u8> = (0..20_000_u32).flat_map(|n| format!("{n:07}\n").into_bytes()).collect();
        for size in [1, 7, 999, 4096, 70_000, flood.len()] {
            let flood = if size == 1 { &flood[..5000] } else { &flood[..] };
            let parts: Vec<&[u8]> = flood.chunks(size).collect();
            let (kept, lost) = kept(Some(4000), &parts);
            let cut = format!("[teamster: {} bytes are cut out here]\n", flood.len() - 4000);
            assert!(kept.starts_with(&flood[..3000]), "{size}");
            assert!(kept.ends_with(&flood[flood.len() - 1000..]), "{size}");
            assert!(String::from_utf8_lossy(&kept).contains(&cut), "{size}");
            assert!(kept.len() < 4400 && lost == 0, "{size}");
        }
    }

    #[test]
    fn between_head_and_limit_nothing_is_cut() {
        let text = vec![b'x'; 3500];
        let (kept, _) = kept(Some(4000), &[&text]);
        assert_eq!(kept.iter().filter(|byte| **byte == b'x').count(), 3500);
        assert!(!String::from_utf8_lossy(&kept).contains("cut out"));
    }

    #[test]
    fn a_disk_that_takes_nothing_loses_bytes_and_nothing_else() {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let mut spool = Spool {
            file: full,
            length: 0,
            head_max: u64::MAX,
            ring: None,
            lost: 0,
            lost_untold: 0,
            refused: None,
        };
        spool.take(&[1; 1000]);
        spool.take(&[1; 24]);
        assert_eq!((spool.lost_bytes(), spool.length), (1024, 0));
        let file = tempfile::NamedTempFile::new().unwrap();
        spool.file = file.reopen().unwrap();
        spool.refused = None;
        spool.take(b"again");
        let text = fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, "\n[teamster: 1024 bytes are lost here: no space left on this node]\nagain");
    }
}
