//! A build's progress as plain lines: what begins, what it prints, how it ends.

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;

/// A line without an end is passed on in pieces of this size, in bytes.
const LONGEST_LINE: usize = 64 * 1024;

/// What a build did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BuildSummary {
    /// Instructions of the Dockerfile that were run.
    pub run: usize,
    /// Instructions whose result came from the cache.
    pub cached: usize,
}

/// Writes a build's progress.
pub(super) struct Progress<'o> {
    output: &'o mpsc::Sender<Vec<u8>>,
    steps: HashMap<String, Step>,
}

/// One vertex of the build's graph.
struct Step {
    number: usize,
    name: String,
    cached: bool,
    done: bool,
    line: Vec<u8>,
}

impl<'o> Progress<'o> {
    pub(super) fn new(output: &'o mpsc::Sender<Vec<u8>>) -> Self {
        Self { output, steps: HashMap::new() }
    }

    async fn line(&self, text: String) {
        let _ = self.output.send(text.into_bytes()).await;
    }

    /// Takes one update of the stream.
    pub(super) async fn update(&mut self, update: StatusResponse) {
        for vertex in update.vertexes {
            self.vertex(&vertex).await;
        }
        for log in update.logs {
            self.log(log).await;
        }
        for warning in update.warnings {
            let text = String::from_utf8_lossy(&warning.short).into_owned();
            self.line(format!("warning: {text}\n")).await;
        }
    }

    async fn vertex(&mut self, vertex: &Vertex) {
        if vertex.started.is_none() && !vertex.cached {
            return;
        }
        let number = self.steps.len() + 1;
        if !self.steps.contains_key(&vertex.digest) {
            let step =
                Step { number, name: vertex.name.clone(), cached: false, done: false, line: Vec::new() };
            self.steps.insert(vertex.digest.clone(), step);
            self.line(format!("#{number} {}\n", vertex.name)).await;
        }
        let Some(step) = self.steps.get_mut(&vertex.digest) else {
            return;
        };
        let number = step.number;
        step.cached |= vertex.cached;
        if vertex.completed.is_none() || step.done {
            return;
        }
        step.done = true;
        let rest = std::mem::take(&mut step.line);
        if !rest.is_empty() {
            self.line(format!("#{number} {}\n", String::from_utf8_lossy(&rest))).await;
        }
        let end = if !vertex.error.is_empty() {
            format!("failed: {}", vertex.error)
        } else if vertex.cached {
            "cached".to_owned()
        } else {
            format!("done {:.1} s", took(vertex).as_secs_f64())
        };
        self.line(format!("#{number} {end}\n")).await;
    }

    /// Passes on whole lines of a step's output, each with the step's number.
    async fn log(&mut self, log: VertexLog) {
        let Some(step) = self.steps.get_mut(&log.vertex) else {
            return;
        };
        step.line.extend_from_slice(&log.msg);
        let mut out = Vec::new();
        while let Some(end) = step.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = step.line.drain(..=end).collect();
            out.extend_from_slice(format!("#{} ", step.number).as_bytes());
            out.extend_from_slice(&line);
        }
        if step.line.len() > LONGEST_LINE {
            out.append(&mut step.line);
        }
        if !out.is_empty() {
            let _ = self.output.send(out).await;
        }
    }

    /// The end of the stream.
    pub(super) fn finish(&self) -> BuildSummary {
        let mut summary = BuildSummary::default();
        for step in self.steps.values() {
            // Everything in brackets that is not `[internal]` is an instruction of the Dockerfile. `FROM` does no work.
            let instruction = step.name.starts_with('[') && !step.name.starts_with("[internal]");
            if !instruction || step.name.contains("] FROM ") {
                continue;
            }
            if step.cached {
                summary.cached += 1;
            } else {
                summary.run += 1;
            }
        }
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
