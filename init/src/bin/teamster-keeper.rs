//! Keeps what one container writes: started by containerd's shim, outside the container, as root. It reads both
//! streams to their ends whatever happens, keeps of them what it was told to, takes down how the command
//! ended, and kills the container when its lease is over and nobody else did. It obeys nothing that comes
//! from inside but the one message of init, and it outlives the agent, containerd and the shim.

use std::env;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal as RawSignal, pidfd_open, pidfd_send_signal};
use teamster_init::orders::Orders;
use teamster_init::record::{Record, Status};
use teamster_init::spool::Spool;
use teamster_init::{GO, SOCKET, boottime};

/// What the agent starts it with to see that it can be started.
const CHECK: &str = "--check";

/// What the shim has open for it: the two streams, and what tells the shim that it is ready.
const STREAMS: [&str; 2] = ["/proc/self/fd/3", "/proc/self/fd/4"];
const READY: &str = "/proc/self/fd/5";

/// As much as a pipe holds, and the most that a task can make it hold.
const PART_BYTES: usize = 64 << 10;
const PIPE_BYTES_MAX: usize = 1 << 20;

/// The lease is looked at at least so often: the time of waiting does not count while a machine sleeps.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// After the end of a lease the agent comes first, which tells more of it.
const LEASE_MARGIN: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|word| word == CHECK) {
        return ExitCode::SUCCESS;
    }
    match Keeper::new().and_then(Keeper::keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One stream and where it goes.
struct Stream {
    pipe: File,
    spool: Spool,
    has_ended: bool,
}

/// Where init is.
enum Init {
    Awaited(UnixListener),
    Here(UnixStream),
    Gone,
}

struct Keeper {
    orders: Orders,
    record: Record,
    record_file: File,
    streams: [Stream; 2],
    init: Init,
    /// Init's process, from when it has called until it has ended.
    process: Option<OwnedFd>,
}

impl Keeper {
    fn new() -> io::Result<Self> {
        // The shim asks it to end when the container is removed. It ends by itself, when it has read all.
        let mut polite = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            polite.add(signal);
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&polite), None)?;
        // Not allowed everywhere, and of no matter there.
        let _ = fs::write("/proc/self/oom_score_adj", "-999");
        let orders = Orders::parse(env::args_os().skip(1)).map_err(io::Error::other)?;
        let record_file = Record::lock(&orders.record)?;
        let streams = [
            Stream::open(STREAMS[0], &orders.stdout, orders.stdout_max_bytes)?,
            Stream::open(STREAMS[1], &orders.stderr, orders.stderr_max_bytes)?,
        ];
        // By a relative name, because the path of a socket must be short.
        env::set_current_dir(&orders.talk)?;
        let listener = UnixListener::bind(SOCKET)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(SOCKET, Permissions::from_mode(0o666))?;
        File::options().write(true).open(READY)?.write_all(b"r")?;
        let (record, init) = (Record::default(), Init::Awaited(listener));
        Ok(Self { orders, record, record_file, streams, init, process: None })
    }

    fn keep(mut self) -> io::Result<()> {
        let mut part = vec![0; PART_BYTES];
        while self.streams.iter().any(|stream| !stream.has_ended) {
            self.look(&mut part)?;
        }
        self.complete();
        Ok(())
    }

    /// Nothing more comes: all that is kept is put in its place, and said to be there.
    fn complete(&mut self) {
        if self.record.complete {
            return;
        }
        // What init said last may lie there unread.
        if matches!(self.init, Init::Here(_)) {
            self.listen();
        }
        for stream in &mut self.streams {
            stream.spool.finish();
        }
        self.record.complete = true;
        let _ = self.write_record();
    }

    /// Waits for something and does it.
    fn look(&mut self, part: &mut [u8]) -> io::Result<()> {
        let time = self.time_left().map_or(LOOK_INTERVAL, |left| left.min(LOOK_INTERVAL));
        let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
        let [out, err] = &self.streams;
        let mut waiting = Vec::with_capacity(4);
        let talk = match &self.init {
            Init::Awaited(listener) => Some(listener.as_fd()),
            Init::Here(talk) => Some(talk.as_fd()),
            Init::Gone => None,
        };
        let streams = [out, err].map(|stream| (!stream.has_ended).then(|| stream.pipe.as_fd()));
        let order = [talk, streams[0], streams[1], self.process.as_ref().map(AsFd::as_fd)];
        waiting.extend(order.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        match poll(&mut waiting, Some(&time)) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            other => other?,
        };
        let mut results = waiting.iter().map(|waited| !waited.revents().is_empty());
        let ready = order.map(|fd| fd.is_some() && results.next().unwrap_or(false));
        if ready[0] {
            self.listen();
        }
        for (stream, is_ready) in self.streams.iter_mut().zip(&ready[1..]) {
            if *is_ready {
                stream.read(part, !self.record.complete);
            }
        }
        if ready[3] {
            self.end(part);
        }
        if self.time_left() == Some(Duration::ZERO) {
            self.end_lease();
        }
        Ok(())
    }

    /// Init has ended, and with it, as pid 1, everything in the container. What that wrote lies in the pipes;
    /// their ends come only when the shim lets go of them, which can be much later. What others write, to whom
    /// a task gave its streams, is nobody's log.
    fn end(&mut self, part: &mut [u8]) {
        self.process = None;
        for stream in &mut self.streams {
            let mut left = PIPE_BYTES_MAX;
            while left > 0 && stream.has_some() {
                left = left.saturating_sub(stream.read(part, true));
            }
        }
        self.complete();
    }

    /// Until the container must be killed; none when it need not be.
    fn time_left(&self) -> Option<Duration> {
        if matches!(self.init, Init::Gone) {
            return None;
        }
        let end = boottime::lease_from(&self.orders.lease)?
            .saturating_add(self.orders.lease_length)
            .saturating_add(LEASE_MARGIN);
        Some(end.saturating_sub(boottime::now()))
    }

    fn end_lease(&mut self) {
        // On record first: the end of the container must not be taken for anything else.
        self.record.lease_ended = true;
        let _ = self.write_record();
        if let Some(process) = &self.process {
            // It is pid 1 of its namespace: the kernel kills the rest with it.
            let _ = pidfd_send_signal(process, RawSignal::KILL);
        }
        // One that is yet to come finds nobody, and runs nothing.
        let _ = fs::remove_file(SOCKET);
        self.init = Init::Gone;
    }

    /// Init calls, speaks or is gone.
    fn listen(&mut self) {
        self.init = match std::mem::replace(&mut self.init, Init::Gone) {
            Init::Awaited(listener) => match listener.accept() {
                Ok((talk, _)) => self.meet(talk),
                Err(_) => Init::Awaited(listener),
            },
            Init::Here(mut talk) => {
                let mut text = [0; PART_BYTES >> 4];
                match talk.read(&mut text) {
                    Ok(count) if count > 0 => {
                        self.record.status = Status::parse(&String::from_utf8_lossy(&text[..count]));
                        self.record.at_unix_nanos = unix_nanos();
                        let _ = self.write_record();
                        let _ = talk.write_all(&[GO]);
                        Init::Here(talk)
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => Init::Here(talk),
                    Ok(_) | Err(_) => Init::Gone,
                }
            }
            Init::Gone => Init::Gone,
        };
    }

    /// The first who calls is init, for nothing else runs in the container yet. Nobody else may call.
    fn meet(&mut self, mut talk: UnixStream) -> Init {
        let _ = fs::remove_file(SOCKET);
        self.process = rustix::net::sockopt::socket_peercred(&talk)
            .and_then(|peer| pidfd_open(peer.pid, PidfdFlags::empty()))
            .ok();
        // On record before init may go on, or it may not: a container of which it is not there counts as one that has
        // run nothing, and is made again.
        self.record.met = true;
        if self.write_record().is_err() {
            self.record.met = false;
            return Init::Gone;
        }
        // Whoever takes this is alive still, so the handle is of no other process.
        let is_met = talk.write_all(&[GO]).and_then(|()| talk.set_nonblocking(true));
        if is_met.is_ok() { Init::Here(talk) } else { Init::Gone }
    }

    fn write_record(&mut self) -> io::Result<()> {
        self.record.lost_bytes = [0, 1].map(|index: usize| self.streams[index].spool.lost_bytes());
        // The file is there in its full size. A disk that takes not even this is one on which nothing is
        // known of the task, and that is what its record then says.
        self.record.write(&self.record_file)
    }
}

impl Stream {
    fn open(pipe: &str, path: &std::path::Path, max_bytes: Option<u64>) -> io::Result<Self> {
        Ok(Self { pipe: File::open(pipe)?, spool: Spool::open(path, max_bytes)?, has_ended: false })
    }

    /// Whether there is something to read now.
    fn has_some(&self) -> bool {
        let mut waiting = [PollFd::new(&self.pipe, PollFlags::IN)];
        while let Err(error) = poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            if error != rustix::io::Errno::INTR {
                return false;
            }
        }
        !self.has_ended && waiting[0].revents().contains(PollFlags::IN)
    }

    /// Reads some and keeps it, or not; how much it was.
    fn read(&mut self, part: &mut [u8], is_kept: bool) -> usize {
        match self.pipe.read(part) {
            Ok(count) if count > 0 => {
                if is_kept {
                    self.spool.take(&part[..count]);
                }
                return count;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => self.has_ended = true,
        }
        0
    }
}

fn unix_nanos() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
