//! The progress of a build: its steps and their output, as lines for a log or as a short view for a terminal.

use super::failure::command_failure;
use crate::secret::{MaskedLines, Masks};
use crate::text::human_size;
use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog};
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};
use tempfile::SpooledTempFile;
use tokio::sync::{mpsc, watch};

/// The kept output of a step is sent in pieces of this size, in bytes.
const PIECE: usize = 64 * 1024;
/// How much output of a step is kept in memory in case it fails, in bytes. The rest is kept in a file.
const KEPT_IN_MEMORY: usize = 256 * 1024;
/// The text that BuildKit inserts into truncated output.
const CLIPPED: &[u8] = b"[output clipped, log limit ";

/// The receivers of a build's progress.
#[derive(Clone)]
pub(crate) struct Watcher {
    /// Receives lines of the log.
    pub(crate) output: mpsc::Sender<Vec<u8>>,
    /// Receives the running steps, one line each, for a terminal. With it the log has only the output of failed
    /// steps, otherwise that of all steps.
    pub(crate) live: Option<watch::Sender<Vec<String>>>,
    /// Receives problems that do not fail the build.
    pub(crate) warnings: mpsc::Sender<String>,
    /// Receives the start and the end of every step.
    pub(crate) vertices: mpsc::Sender<VertexUpdate>,
    /// The prefix of all lines, for parallel builds.
    pub(crate) prefix: String,
    /// The secrets in the output of steps, which is masked before its lines get a prefix.
    pub(crate) masks: Masks,
}

/// The start or the end of a step of the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VertexUpdate {
    /// The step's number in the log.
    pub(crate) number: usize,
    pub(crate) name: String,
    /// How it ended; absent at its start.
    pub(crate) end: Option<VertexEnd>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VertexEnd {
    pub(crate) cached: bool,
    pub(crate) error: Option<String>,
    pub(crate) elapsed: Duration,
}

/// The beginning of the names of the engine's own steps.
const INTERNAL: &str = "[internal]";
/// How long such a step may take to start again after it has ended. The engine sends updates every 100 to 150 ms.
pub(crate) const SETTLED: Duration = Duration::from_millis(250);
/// The names of the steps that read and write caches. They may fail.
const IMPORTING: &str = "importing cache manifest from ";
const EXPORTING: &str = "exporting cache";

/// The steps of a finished build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BuildSummary {
    /// The number of instructions of the Dockerfile that were run.
    pub(crate) run: usize,
    /// The number of instructions whose result came from the cache.
    pub(crate) cached: usize,
    /// The instructions that were run, the slowest first, with their durations.
    pub(crate) slowest: Vec<(String, Duration)>,
    /// Whether the export of the cache failed.
    pub(crate) cache_not_written: bool,
}

/// Reports the progress of a build.
pub(crate) struct Progress<'w> {
    watcher: &'w Watcher,
    steps: HashMap<String, Step>,
    /// Names of images that mean nothing to people, with those for the log.
    titles: Vec<(String, String)>,
    /// Whether the engine has truncated output.
    clipped: bool,
    /// The ends that are not in the log yet.
    ended: Vec<Ended>,
}

/// The end of a step that may start again: the engine looks some of its own steps up before it executes them, and only
/// the last end counts.
struct Ended {
    vertex: String,
    /// The line for the log.
    line: String,
    at: Instant,
}

/// A vertex of the build graph.
struct Step {
    number: usize,
    name: String,
    cached: bool,
    started: Instant,
    /// Its duration and error; the error is empty after success.
    end: Option<(Duration, String)>,
    /// Its output on the way to the log.
    output: MaskedLines,
    /// The last line.
    last: String,
    /// The bytes that were sent to the engine for it.
    sent: u64,
    /// Its output, if the log does not have it.
    kept: SpooledTempFile,
}

impl Step {
    /// Whether it is an instruction of the Dockerfile that does work: its name is in brackets, and it is neither
    /// internal to BuildKit nor a `FROM`.
    fn is_instruction(&self) -> bool {
        self.name.starts_with('[') && !self.name.starts_with(INTERNAL) && !self.name.contains("] FROM ")
    }
}

impl<'w> Progress<'w> {
    /// `titles` has names of images that mean nothing to people, with those that the log shows instead.
    pub(crate) fn new(watcher: &'w Watcher, titles: Vec<(String, String)>) -> Self {
        Self { watcher, steps: HashMap::new(), titles, clipped: false, ended: Vec::new() }
    }

    /// A name or error of a step as the log shows it.
    fn titled(&self, text: &str) -> String {
        self.titles.iter().fold(text.to_owned(), |text, (name, title)| {
            let Some((before, after)) = text.split_once(name.as_str()) else { return text };
            // The engine adds the digest.
            let after = after
                .strip_prefix("@sha256:")
                .map_or(after, |rest| rest.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
            format!("{before}{title}{after}")
        })
    }

    async fn line(&self, text: String) {
        let _ = self.watcher.output.send(format!("{}{text}\n", self.watcher.prefix).into_bytes()).await;
    }

    async fn warn(&self, text: &str) {
        let _ = self.watcher.warnings.send(format!("{}{text}", self.watcher.prefix)).await;
    }

    /// Processes an update of the stream.
    pub(crate) async fn update(&mut self, mut update: StatusResponse) {
        for vertex in &mut update.vertexes {
            vertex.name = self.titled(&vertex.name);
            vertex.error = self.titled(&vertex.error);
        }
        let started = |vertex: &&Vertex| vertex.started.is_some() || vertex.cached;
        let starts_again = |ended: &Ended| {
            let mut vertices = update.vertexes.iter();
            vertices.any(|vertex| vertex.digest == ended.vertex && vertex.completed.is_none())
        };
        self.ended.retain(|ended| !starts_again(ended));
        self.settle().await;
        for vertex in update.vertexes.iter().filter(started) {
            self.start(vertex).await;
        }
        // The last size arrives together with the end of the step.
        for status in update.statuses.iter().filter(|status| status.id.starts_with("transferring ")) {
            if let Some(step) = self.steps.get_mut(&status.vertex) {
                step.sent = step.sent.max(u64::try_from(status.current).unwrap_or_default());
            }
        }
        // The last output of a step arrives with its end, or even after it.
        for log in update.logs {
            self.log(log).await;
        }
        for vertex in update.vertexes.iter().filter(started).filter(|vertex| vertex.completed.is_some()) {
            self.end(vertex).await;
        }
        for warning in update.warnings {
            let text = String::from_utf8_lossy(&warning.short).into_owned();
            self.warn(&text).await;
        }
        self.show();
    }

    /// Writes the ends to the log that are old enough.
    pub(crate) async fn settle(&mut self) {
        self.settle_after(SETTLED).await;
    }

    async fn settle_after(&mut self, time: Duration) {
        let (old, new) =
            std::mem::take(&mut self.ended).into_iter().partition(|ended| ended.at.elapsed() >= time);
        self.ended = new;
        let old: Vec<Ended> = old;
        for ended in old {
            self.line(ended.line).await;
        }
    }

    async fn start(&mut self, vertex: &Vertex) {
        if !self.steps.contains_key(&vertex.digest) {
            let number = self.steps.len() + 1;
            let step = Step {
                number,
                name: vertex.name.clone(),
                cached: false,
                started: Instant::now(),
                end: None,
                output: MaskedLines::new(&self.watcher.masks),
                last: String::new(),
                sent: 0,
                kept: SpooledTempFile::new(KEPT_IN_MEMORY),
            };
            self.steps.insert(vertex.digest.clone(), step);
            let update = VertexUpdate { number, name: vertex.name.clone(), end: None };
            let _ = self.watcher.vertices.send(update).await;
            if self.watcher.live.is_none() {
                // The steps before it have ended for good.
                self.settle_after(Duration::ZERO).await;
                self.line(format!("#{number} {}", vertex.name)).await;
            }
        }
        let Some(step) = self.steps.get_mut(&vertex.digest) else {
            return;
        };
        step.cached |= vertex.cached;
        if vertex.completed.is_none() {
            // A step that was only looked up before is now executed.
            step.end = None;
        }
    }

    async fn end(&mut self, vertex: &Vertex) {
        let Some(step) = self.steps.get_mut(&vertex.digest).filter(|step| step.end.is_none()) else {
            return;
        };
        let (number, sent, compact) = (step.number, step.sent, self.watcher.live.is_some());
        let (failed, took) = (!vertex.error.is_empty(), took(vertex));
        let rest = step.output.finish();
        self.forward(&vertex.digest, &rest).await;
        if let Some(step) = self.steps.get_mut(&vertex.digest) {
            step.end = Some((took, vertex.error.clone()));
        }
        let error = failed.then(|| vertex.error.clone());
        let end = Some(VertexEnd { cached: vertex.cached, error, elapsed: took });
        let _ = self.watcher.vertices.send(VertexUpdate { number, name: vertex.name.clone(), end }).await;
        let end = if failed {
            format!("failed: {}", command_failure(&vertex.error).unwrap_or_else(|| vertex.error.clone()))
        } else if vertex.cached {
            "cached".to_owned()
        } else {
            let sent = if sent > 0 { format!(", {} sent", human_size(sent)) } else { String::new() };
            format!("done {:.1} s{sent}", took.as_secs_f64())
        };
        let cache = match (vertex.name.strip_prefix(IMPORTING), vertex.name.starts_with(EXPORTING)) {
            (Some(cache), _) => Some(format!("the cache {cache} cannot be read: {}", vertex.error)),
            (None, true) => Some(format!("the cache cannot be written: {}", vertex.error)),
            (None, false) => None,
        };
        if let (Some(warning), true) = (cache, failed) {
            self.warn(&warning).await;
        } else if !compact && !failed && vertex.name.starts_with(INTERNAL) {
            let line = format!("#{number} {end}");
            self.ended.push(Ended { vertex: vertex.digest.clone(), line, at: Instant::now() });
        } else if !compact {
            self.line(format!("#{number} {end}")).await;
        } else if failed {
            self.line(format!("#{number} {}", vertex.name)).await;
            self.show_kept(&vertex.digest).await;
            self.line(format!("#{number} {end}")).await;
        } else if self.steps.get(&vertex.digest).is_some_and(Step::is_instruction) {
            self.line(format!("#{number} {} · {end}", vertex.name)).await;
        }
    }

    /// Processes output of a step. Only complete lines are forwarded.
    async fn log(&mut self, log: VertexLog) {
        let Some(step) = self.steps.get_mut(&log.vertex) else {
            return;
        };
        let lines = step.output.push(&log.msg);
        self.forward(&log.vertex, &lines).await;
    }

    /// Writes lines to the log, with the step's number. Keeps them instead if the log is for a terminal.
    async fn forward(&mut self, vertex: &str, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if !self.clipped && lines.windows(CLIPPED.len()).any(|window| window == CLIPPED) {
            self.clipped = true;
            let text = "the engine has truncated the output of a step; BUILDKIT_STEP_LOG_MAX_SIZE=-1 and BUILDKIT_STEP_LOG_MAX_SPEED=-1 in its environment prevent this";
            self.warn(text).await;
        }
        let Some(step) = self.steps.get_mut(vertex) else {
            return;
        };
        let out = step.output.prefixed(&format!("{}#{} ", self.watcher.prefix, step.number), lines);
        let has_failed = step.end.as_ref().is_some_and(|(_, error)| !error.is_empty());
        if self.watcher.live.is_none() || has_failed {
            let _ = self.watcher.output.send(out).await;
            return;
        }
        if let Some(last) = lines.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()) {
            step.last = String::from_utf8_lossy(last).into_owned();
        }
        // A full disk must not fail the build.
        let _ = step.kept.write_all(&out);
    }

    async fn show_kept(&mut self, vertex: &str) {
        let Some(step) = self.steps.get_mut(vertex) else {
            return;
        };
        let _ = step.kept.seek(SeekFrom::Start(0));
        loop {
            let mut piece = vec![0; PIECE];
            let Ok(length @ 1..) = step.kept.read(&mut piece) else { return };
            piece.truncate(length);
            let _ = self.watcher.output.send(piece).await;
        }
    }

    /// Shows the running steps.
    fn show(&self) {
        let Some(live) = &self.watcher.live else { return };
        let mut running: Vec<&Step> = self.steps.values().filter(|step| step.end.is_none()).collect();
        running.sort_by_key(|step| step.number);
        let lines = running.into_iter().flat_map(|step| {
            let took = step.started.elapsed().as_secs_f64();
            let name = format!("{}#{} {} · {took:.1} s", self.watcher.prefix, step.number, step.name);
            let last = (!step.last.is_empty()).then(|| format!("    {}", step.last));
            [Some(name), last].into_iter().flatten()
        });
        live.send_replace(lines.collect());
    }

    /// Ends the progress after the last update.
    pub(crate) async fn finish(mut self) -> BuildSummary {
        self.settle_after(Duration::ZERO).await;
        // Output may arrive after the end of its step.
        let vertices: Vec<String> = self.steps.keys().cloned().collect();
        for vertex in vertices {
            let rest = self.steps.get_mut(&vertex).map(|step| step.output.finish()).unwrap_or_default();
            self.forward(&vertex, &rest).await;
        }
        if let Some(live) = &self.watcher.live {
            live.send_replace(Vec::new());
        }
        let mut summary = BuildSummary::default();
        for step in self.steps.values() {
            let (took, error) = step.end.clone().unwrap_or_default();
            if step.is_instruction() && step.cached {
                summary.cached += 1;
            } else if step.is_instruction() {
                summary.run += 1;
                summary.slowest.push((step.name.clone(), took));
            }
            summary.cache_not_written |= !error.is_empty() && step.name.starts_with(EXPORTING);
        }
        summary.slowest.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        summary
    }
}

fn took(vertex: &Vertex) -> Duration {
    let nanoseconds = |at: &Option<Timestamp>| {
        at.as_ref().map_or(0, |at| i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos))
    };
    let span = nanoseconds(&vertex.completed) - nanoseconds(&vertex.started);
    Duration::from_nanos(u64::try_from(span).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard_buildkit_proto::moby::buildkit::v1::VertexStatus;

    #[tokio::test]
    async fn output_that_arrives_with_a_failure_or_after_it_is_shown() {
        let vertex = |error: &str| Vertex {
            digest: "d".to_owned(),
            name: "[1/1] RUN false".to_owned(),
            started: Some(Timestamp { seconds: 1, nanos: 0 }),
            completed: (!error.is_empty()).then_some(Timestamp { seconds: 2, nanos: 0 }),
            error: error.to_owned(),
            ..Vertex::default()
        };
        let log = |text: &str| VertexLog { vertex: "d".to_owned(), msg: text.into(), ..VertexLog::default() };
        let updates = [
            StatusResponse { vertexes: vec![vertex("")], ..StatusResponse::default() },
            StatusResponse { logs: vec![log("one\ntw")], ..StatusResponse::default() },
            StatusResponse {
                vertexes: vec![vertex("bad")],
                logs: vec![log("o")],
                ..StatusResponse::default()
            },
            StatusResponse { logs: vec![log("three\nfour")], ..StatusResponse::default() },
        ];
        for live in [None, Some(watch::channel(Vec::new()).0)] {
            let (output, mut lines) = mpsc::channel(16);
            let (warnings, _) = mpsc::channel(1);
            let vertices = mpsc::channel(16).0;
            let watcher =
                Watcher { output, live, warnings, vertices, prefix: String::new(), masks: Masks::default() };
            let mut progress = Progress::new(&watcher, Vec::new());
            for update in updates.clone() {
                progress.update(update).await;
            }
            progress.finish().await;
            let mut shown = Vec::new();
            while let Ok(line) = lines.try_recv() {
                shown.extend(line);
            }
            let expected = "#1 [1/1] RUN false\n#1 one\n#1 two\n#1 failed: bad\n#1 three\n#1 four\n";
            assert_eq!(String::from_utf8_lossy(&shown), expected);
        }
    }

    /// Findings, F.
    #[tokio::test]
    async fn a_step_that_starts_again_ends_again() {
        let (output, mut lines) = mpsc::channel(16);
        let (warnings, _) = mpsc::channel(1);
        let (vertices, mut updates) = mpsc::channel(16);
        let watcher = Watcher {
            output,
            live: None,
            warnings,
            vertices,
            prefix: String::new(),
            masks: Masks::default(),
        };
        let mut progress = Progress::new(&watcher, Vec::new());
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let vertex = |started, completed| Vertex {
            digest: "d".to_owned(),
            name: "[internal] load".to_owned(),
            started,
            completed,
            ..Vertex::default()
        };
        let update = |vertex, sent| {
            let status = VertexStatus {
                id: "transferring context:".to_owned(),
                vertex: "d".to_owned(),
                current: sent,
                ..VertexStatus::default()
            };
            StatusResponse { vertexes: vec![vertex], statuses: vec![status], ..StatusResponse::default() }
        };
        for (started, completed, sent) in [(1, None, 0), (1, at(1), 0), (2, None, 5), (2, at(5), 7)] {
            progress.update(update(vertex(at(started), completed), sent)).await;
        }
        progress.settle_after(Duration::ZERO).await;
        let mut log = Vec::new();
        while let Ok(line) = lines.try_recv() {
            log.extend(line);
        }
        assert_eq!(String::from_utf8_lossy(&log), "#1 [internal] load\n#1 done 3.0 s, 7 B sent\n");
        let mut ends = Vec::new();
        while let Ok(update) = updates.try_recv() {
            ends.push(update.end.map(|end| end.elapsed.as_secs()));
        }
        assert_eq!(ends, [None, Some(0), Some(3)]);
    }
}
