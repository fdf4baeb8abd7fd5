//! CPU time by process, to the nanosecond, of processes too short-lived to be asked: the kernel says it of
//! every process that ends (its `taskstats`). What is asked for by program file, so that others who run the
//! same programs on this machine from other files are not counted.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, bind, recv, send, socket};

/// How many records may wait: a busy machine ends thousands of processes a second.
const BUFFER_BYTES: usize = 32 << 20;

/// How long one look at the socket lasts.
const LOOK: std::time::Duration = std::time::Duration::from_millis(100);

// From <linux/genetlink.h> and <linux/taskstats.h>.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const GET: u8 = 1;
const REGISTER_CPUMASK: u16 = 3;
const OF_PROCESS: u16 = 4;
const STATS: u16 = 3;

/// Nanoseconds of CPU under each name.
pub type Spent = BTreeMap<&'static str, u64>;

/// A program file.
type File = (u64, u64);

/// Counts until it is dropped.
pub struct Accounting {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

struct Shared {
    files: HashMap<File, &'static str>,
    /// What the children of programs of ours are called that are no such program themselves.
    children: &'static str,
    /// Daemons, which are asked themselves.
    except: Vec<u32>,
    spent: Mutex<Spent>,
    is_over: AtomicBool,
    has_lost: AtomicBool,
}

impl Accounting {
    /// Counts the programs in `files` under their names, but for the processes `except`, and whatever they
    /// start under `children`.
    pub fn start(files: &[(&Path, &'static str)], children: &'static str, except: &[u32]) -> Result<Self> {
        let link = listen()?;
        let file = |(path, name): &(&Path, &'static str)| -> Result<(File, &'static str)> {
            let found = fs::metadata(path).with_context(|| path.display().to_string())?;
            Ok(((found.st_dev(), found.st_ino()), *name))
        };
        let shared = Arc::new(Shared {
            files: files.iter().map(file).collect::<Result<_>>()?,
            children,
            except: except.to_vec(),
            spent: Mutex::default(),
            is_over: AtomicBool::new(false),
            has_lost: AtomicBool::new(false),
        });
        let owner = shared.clone();
        let reader =
            std::thread::Builder::new().name("accounting".into()).spawn(move || owner.read(&link))?;
        Ok(Self { shared, reader: Some(reader) })
    }

    /// What ended processes have used since the last call.
    pub fn take(&self) -> Result<Spent> {
        ensure!(!self.shared.has_lost.load(Ordering::Relaxed), "more processes ended than could be counted");
        Ok(std::mem::take(&mut *self.shared.spent.lock().expect("the reader does not panic")))
    }
}

impl Drop for Accounting {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// One process or thread that has ended.
struct Ended<'a> {
    nanos: u64,
    command: &'a [u8],
    parent: u32,
    process: u32,
    file: File,
}

impl<'a> Ended<'a> {
    /// Reads a `struct taskstats`, of version 12 or later.
    fn parse(stats: &'a [u8]) -> Option<Self> {
        let command = stats.get(80..112)?;
        Some(Self {
            nanos: number(stats, 72)?,
            command: command.split(|byte| *byte == 0).next()?,
            parent: u32::try_from(number(stats, 132)? & 0xffff_ffff).ok()?,
            process: u32::try_from(number(stats, 368)? & 0xffff_ffff).ok()?,
            file: (number(stats, 384)?, number(stats, 392)?),
        })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl Shared {
    fn read(&self, link: &OwnedFd) {
        let mut buffer = vec![0; 64 << 10];
        while !self.is_over.load(Ordering::Relaxed) {
            match recv(link, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, count)) => self.take_message(&buffer[..count]),
                Err(rustix::io::Errno::NOBUFS) => self.has_lost.store(true, Ordering::Relaxed),
                Err(_) => {}
            }
        }
    }

    fn take_message(&self, message: &[u8]) {
        let stats =
            message.get(20..).into_iter().flat_map(attributes).filter(|(kind, _)| *kind == OF_PROCESS);
        let stats = stats.flat_map(|(_, body)| attributes(body)).filter(|(kind, _)| *kind == STATS);
        for ended in stats.filter_map(|(_, body)| Ended::parse(body)) {
            if let Some(name) = self.name(&ended) {
                *self.spent.lock().expect("nobody panics with it").entry(name).or_default() += ended.nanos;
            }
        }
    }

    fn name(&self, ended: &Ended<'_>) -> Option<&'static str> {
        if self.except.contains(&ended.process) {
            return None;
        }
        if let Some(name) = self.files.get(&ended.file) {
            return Some(name);
        }
        // runc's last step before the command runs from a copy of itself in memory.
        let parent = fs::metadata(format!("/proc/{}/exe", ended.parent));
        let is_ours = parent.is_ok_and(|file| self.files.contains_key(&(file.st_dev(), file.st_ino())));
        let is_runc = ended.command.starts_with(b"runc");
        (is_ours && !self.except.contains(&ended.parent)).then_some(if is_runc {
            "runc"
        } else {
            self.children
        })
    }
}

/// A socket on which the end of every process is told.
fn listen() -> Result<OwnedFd> {
    let link = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::GENERIC))?;
    bind(&link, &SocketAddrNetlink::new(0, 0))?;
    set_socket_recv_buffer_size_force(&link, BUFFER_BYTES)?;
    set_socket_timeout(&link, Timeout::Recv, Some(LOOK))?;
    request(&link, CONTROL, GET_FAMILY, FAMILY_NAME, b"TASKSTATS\0")?;
    let mut answer = vec![0; 8 << 10];
    let (_, count) = recv(&link, &mut answer[..], RecvFlags::empty()).context("ask for taskstats")?;
    let mut found = answer[..count].get(20..).into_iter().flat_map(attributes);
    let Some((_, family)) = found.find(|(kind, _)| *kind == FAMILY_ID) else {
        bail!("this kernel keeps no taskstats");
    };
    let family = u16::from_ne_bytes(family[..2].try_into().context("a family")?);
    let mut cpus = fs::read_to_string("/sys/devices/system/cpu/online")?.trim().to_owned();
    cpus.push('\0');
    request(&link, family, GET, REGISTER_CPUMASK, cpus.as_bytes())?;
    Ok(link)
}

fn request(link: &OwnedFd, family: u16, command: u8, kind: u16, value: &[u8]) -> io::Result<()> {
    let padded = value.len().next_multiple_of(4);
    let length = u32::try_from(16 + 4 + 4 + padded).map_err(io::Error::other)?;
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(1_u16.to_ne_bytes()); // NLM_F_REQUEST
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(u16::try_from(4 + value.len()).map_err(io::Error::other)?.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(16 + 4 + 4 + padded, 0);
    send(link, &message, SendFlags::empty())?;
    Ok(())
}

/// Kind and content of each attribute of a message.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let body = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits say how it is written.
        Some((kind & 0x3fff, body))
    })
}
