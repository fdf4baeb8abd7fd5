//! Logs as server-sent events, from where the reader wants them to the end of the task. Each reader has a
//! follower of its own that asks for the next part when the last one was taken: a slow reader waits for
//! nobody but itself, and one that lags so far that the node has no more of it is told what it missed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use teamster_values::TaskId;
use tokio::time::Instant;

use super::position::Position;
use super::source::{Place, STREAMS, Source, stored_end};
use super::utf8::Decoder;
use super::waiting::{self, Waiting};
use super::{Question, Stream};
use crate::api::Api;
use crate::api::response::state_name;
use crate::log_hub::{LogPart, LogStream, Unread};
use crate::store::{Status, StoreError, StoredTask, Want};

/// How often a task is looked at that writes nothing: between attempts, and while its outputs are put in
/// place.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// After how long without an event a reader is sent a comment, so that one that has gone is found out.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How often a node that is away or busy is asked again for what only it has, before the stored end of the
/// log has to do: long enough for a restart of its agent.
const TRIES_MAX: u32 = 25;

type Reading = BoxFuture<'static, (usize, Result<LogPart, Unread>)>;

/// What a follower does next.
enum Step {
    /// Finds the attempt to read.
    Look,
    /// Takes what the node answers.
    Read(Source),
    /// Waits for what is stored of the attempt.
    Settle,
    /// Nothing: all is told.
    Done,
}

struct Follower {
    api: Arc<Api>,
    id: TaskId,
    question: Question,
    at: Position,
    decoders: [Decoder; 2],
    is_over: [bool; 2],
    reading: FuturesUnordered<Reading>,
    tries: u32,
    begun: bool,
    /// The last attempt of which all is told.
    settled: u32,
    waiting: Waiting,
    /// Whether the attempt has not begun to run as far as is known: then it is looked at now and then.
    is_made_ready: bool,
    step: Step,
    events: VecDeque<String>,
    told_at: Instant,
}

/// The events of `id` from `at`, or from the beginning of its last attempt.
pub(super) fn answer(api: Arc<Api>, id: TaskId, question: Question, at: Option<Position>) -> Response {
    let follower = Follower {
        api,
        id,
        question,
        at: at.unwrap_or_default(),
        decoders: Default::default(),
        is_over: [false; 2],
        reading: FuturesUnordered::new(),
        tries: 0,
        begun: at.is_some(),
        settled: 0,
        waiting: Waiting::default(),
        is_made_ready: false,
        step: Step::Look,
        events: VecDeque::new(),
        told_at: Instant::now(),
    };
    let events = stream::try_unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Ok::<_, StoreError>(event.map(|event| (Bytes::from(event), follower)))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

impl Follower {
    async fn next(&mut self) -> Result<Option<String>, StoreError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.told_at = Instant::now();
                return Ok(Some(event));
            }
            // The reader sees no `end`, so it comes back with its last id.
            if self.api.state.log_hub.is_stopping() {
                return Ok(None);
            }
            match std::mem::replace(&mut self.step, Step::Look) {
                Step::Look => self.look().await?,
                Step::Read(source) => self.take(source).await?,
                Step::Settle => self.settle().await?,
                Step::Done => return Ok(None),
            }
        }
    }

    fn task(&self, want: Want) -> Result<Option<StoredTask>, StoreError> {
        self.api.state.reader.task(&self.id, want)
    }

    /// The task is no more: there is nothing left to tell.
    fn gone(&mut self) -> Result<(), StoreError> {
        self.step = Step::Done;
        Ok(())
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let Some(task) = self.task(Want::Status)? else { return self.gone() };
        let is_waiting = match &task.status {
            // The number of a task that waits is that of its last attempt.
            Status::Live(row) => row.attempt <= self.settled,
            Status::Final(_) => false,
        };
        self.tell_waiting(&task);
        if is_waiting {
            self.idle(LOOK_INTERVAL).await;
            return Ok(());
        }
        let Some(task) = self.task(Want::Everything)? else { return self.gone() };
        let source = Source::last(&self.api.state.log_hub, &task);
        let Some(source) = source.filter(|source| source.attempt > self.settled) else {
            self.finish(&task);
            return Ok(());
        };
        if source.attempt != self.at.attempt {
            self.at = Position { attempt: source.attempt, ..Position::default() };
            self.at.executor = self.question.executor.unwrap_or(0);
            self.decoders = Default::default();
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.begin_with_tail(&source).await;
        }
        self.start(source);
        Ok(())
    }

    /// Says what the task waits for, where that is news.
    fn tell_waiting(&mut self, task: &StoredTask) {
        self.is_made_ready = matches!(&task.status, Status::Live(row) if waiting::is_wait(row));
        if let Some(text) = self.waiting.news(task, &self.api.state.board) {
            // It moves nobody on in what was written, so it has no id.
            let text = serde_json::Value::from(text);
            self.events.push_back(format!("event: waiting\ndata: {text}\n\n"));
        }
    }

    /// Moves to the last bytes of the executor that wrote last.
    async fn begin_with_tail(&mut self, source: &Source) {
        let Some(tail) = self.question.tail else { return };
        let mut sizes = Vec::new();
        for stream in STREAMS {
            let stored = |_| {
                let logs = (0..source.executors).map_while(|executor| source.stored_executor(executor));
                logs.map(|log| stored_end(log, stream).1).collect()
            };
            sizes.push(source.sizes(stream).await.unwrap_or_else(stored));
        }
        if self.question.executor.is_none() {
            let wrote = |sizes: &Vec<u64>| sizes.iter().rposition(|size| *size > 0);
            self.at.executor = sizes.iter().filter_map(wrote).max().unwrap_or(0) as u32;
        }
        for (offset, sizes) in self.at.offsets.iter_mut().zip(&sizes) {
            let size = sizes.get(self.at.executor as usize).copied().unwrap_or(0);
            *offset = size.saturating_sub(tail);
        }
        // The first bytes may be the rest of a character.
        self.decoders = [Decoder::after_cut(), Decoder::after_cut()];
    }

    /// Asks for what comes next of both streams.
    fn start(&mut self, source: Source) {
        self.reading.clear();
        let end = self.question.executor.map_or(source.executors, |one| (one + 1).min(source.executors));
        if self.at.executor >= end || self.question.stream == Some(Stream::System) {
            self.step = Step::Settle;
            return;
        }
        self.is_over = STREAMS.map(|stream| !self.question.wants(stream));
        for index in 0..STREAMS.len() {
            if !self.is_over[index] {
                self.ask(&source, index);
            }
        }
        self.step = Step::Read(source);
    }

    fn ask(&self, source: &Source, index: usize) {
        // Bytes that are held back as half a character have been read.
        let offset = self.at.offsets[index] + self.decoders[index].held_bytes();
        let place = Place { executor: self.at.executor, stream: STREAMS[index], offset };
        let source = source.clone();
        self.reading.push(Box::pin(async move { (index, source.read(place).await) }));
    }

    async fn take(&mut self, source: Source) -> Result<(), StoreError> {
        let hub = self.api.state.log_hub.clone();
        let answer = tokio::select! {
            // Cancel safe, both: what the node has not answered is still asked.
            answer = self.reading.next() => answer,
            () = hub.pause(LOOK_INTERVAL), if self.is_made_ready => {
                let Some(task) = self.task(Want::Status)? else { return self.gone() };
                self.tell_waiting(&task);
                self.idle(Duration::ZERO).await;
                self.step = Step::Read(source);
                return Ok(());
            }
        };
        let Some((index, answer)) = answer else {
            self.executor_over(source);
            return Ok(());
        };
        match answer {
            Ok(part) => {
                self.tries = 0;
                let read =
                    self.at.offsets[index] + self.decoders[index].held_bytes() + part.data.len() as u64;
                let is_empty = part.data.is_empty();
                self.told(index, &part.data, false);
                if part.has_ended && read >= part.size_bytes {
                    self.told(index, &[], true);
                    self.is_over[index] = true;
                } else {
                    self.ask(&source, index);
                }
                if is_empty {
                    self.idle(Duration::ZERO).await;
                }
                self.step = Step::Read(source);
            }
            Err(unread) => self.without_node(source, unread).await,
        }
        Ok(())
    }

    fn executor_over(&mut self, source: Source) {
        self.at = Position { executor: self.at.executor + 1, offsets: [0; 2], ..self.at };
        self.decoders = Default::default();
        self.start(source);
    }

    /// The node is away, or has no such log.
    async fn without_node(&mut self, source: Source, unread: Unread) {
        self.reading.clear();
        self.decoders = Default::default();
        if let Some(log) = source.stored_executor(self.at.executor) {
            let is_kept = |index: usize| {
                let (text, size_bytes) = stored_end(log, STREAMS[index]);
                self.at.offsets[index] + text.len() as u64 >= size_bytes
            };
            let misses_nothing = (0..2).all(|index| is_kept(index) || !self.question.wants(STREAMS[index]));
            if misses_nothing || unread == Unread::NotHere || self.tries >= TRIES_MAX {
                for index in 0..STREAMS.len() {
                    self.tell_stored(&source, index);
                }
                return self.executor_over(source);
            }
        } else if source.stored.is_some() {
            return self.executor_over(source);
        }
        self.tries += 1;
        // It may be on its way there, or back; what has become of the attempt is looked up again.
        self.idle(LOOK_INTERVAL * self.tries.min(10)).await;
    }

    /// What is stored of one stream after the position.
    fn tell_stored(&mut self, source: &Source, index: usize) {
        let stream = STREAMS[index];
        let Some(log) = source.stored_executor(self.at.executor).filter(|_| self.question.wants(stream))
        else {
            return;
        };
        let (text, size_bytes) = stored_end(log, stream);
        let begin = size_bytes - text.len() as u64;
        let missed = begin.saturating_sub(self.at.offsets[index]);
        let mut from = usize::try_from(self.at.offsets[index].saturating_sub(begin)).unwrap_or(text.len());
        from = from.min(text.len());
        while !text.is_char_boundary(from) {
            from += 1;
        }
        let rest = text[from..].to_owned();
        if missed > 0 {
            let executor = self.at.executor;
            let name = name_of(stream);
            self.system(&format!(
                "missed {missed} bytes of {name} of executor {executor}: the node has them no more"
            ));
        }
        self.at.offsets[index] = size_bytes;
        if !rest.is_empty() {
            self.event(name_of(stream), &rest);
        }
    }

    fn told(&mut self, index: usize, data: &[u8], is_end: bool) {
        let (text, taken) = self.decoders[index].decode(data, is_end);
        self.at.offsets[index] += taken;
        if !text.is_empty() {
            self.event(name_of(STREAMS[index]), &text);
        }
    }

    /// Waits until the attempt is stored, then tells what the system says of it.
    async fn settle(&mut self) -> Result<(), StoreError> {
        let Some(task) = self.task(Want::Status)? else { return self.gone() };
        let is_under_way = matches!(&task.status, Status::Live(row)
            if row.node.is_some() && row.attempt == self.at.attempt);
        if is_under_way {
            self.tell_waiting(&task);
            self.idle(LOOK_INTERVAL).await;
            self.step = Step::Settle;
            return Ok(());
        }
        let Some(task) = self.task(Want::Everything)? else { return self.gone() };
        if self.wants_system() {
            let log = task.attempts.iter().find(|(number, _)| *number == self.at.attempt);
            for line in log.map(|(_, log)| log.system_logs.as_slice()).unwrap_or_default() {
                self.system(line);
            }
        }
        self.settled = self.at.attempt;
        if matches!(task.status, Status::Final(_)) {
            self.finish(&task);
        }
        Ok(())
    }

    /// The last words, if the task has ended.
    fn finish(&mut self, task: &StoredTask) {
        let Status::Final(row) = &task.status else { return };
        if self.wants_system() {
            row.notes.iter().for_each(|line| self.system(line));
        }
        self.event("end", state_name(&task.status));
        self.step = Step::Done;
    }

    /// Waits, and now and then finds out whether the reader is still there.
    async fn idle(&mut self, time: Duration) {
        self.api.state.log_hub.pause(time).await;
        if self.told_at.elapsed() >= SILENCE_MAX {
            self.events.push_back(": nothing new\n\n".to_owned());
        }
    }

    fn wants_system(&self) -> bool {
        self.question.stream.is_none_or(|stream| stream == Stream::System)
    }

    fn system(&mut self, line: &str) {
        self.event("system", &format!("{line}\n"));
    }

    fn event(&mut self, name: &str, text: &str) {
        let text = serde_json::Value::from(text);
        self.events.push_back(format!("id: {}\nevent: {name}\ndata: {text}\n\n", self.at));
    }
}

fn name_of(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    }
}
