//! The results of a run as human-readable lines: images built, tested and pushed, revisions registered and deployed.

use crate::event::{CaseStatus, Counts, DeploymentStatus, Kind, Tested};
use crate::text::human_size;
use std::borrow::Cow;

/// How many failed test cases of an image the summary names.
const NAMED: usize = 20;

/// A line of the summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// `built`, `tested`, `pushed` …
    pub(crate) verb: &'static str,
    /// The image, revision or service.
    pub(crate) subject: String,
    pub(crate) detail: String,
}

/// Collects the results of a run.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    lines: Vec<Line>,
    /// The failed test cases of the image whose tests are running, and their number.
    failed_cases: Vec<Line>,
    failed_count: usize,
}

impl Summary {
    /// Adds the result of an event, if it has one.
    pub(crate) fn add(&mut self, kind: &Kind) {
        if let Kind::TestCase(case) = kind
            && case.status == CaseStatus::Failed
        {
            self.failed_count += 1;
            if self.failed_cases.len() < NAMED {
                let message = case.message.as_deref().unwrap_or_default();
                self.failed_cases.push(line("failed", &case.name, message));
            }
        }
        self.lines.extend(self::result(kind));
        if matches!(kind, Kind::TestFinished(_)) {
            self.lines.append(&mut self.failed_cases);
            if self.failed_count > NAMED {
                let more = format!("{} more, in the log above", self.failed_count - NAMED);
                self.lines.push(line("failed", "…", more));
            }
            self.failed_count = 0;
        }
    }

    /// The lines, in the order of the events.
    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }
}

fn line<'t>(verb: &'static str, subject: &str, detail: impl Into<Cow<'t, str>>) -> Line {
    Line { verb, subject: subject.to_owned(), detail: detail.into().into_owned() }
}

/// The line about a result, if the event is one.
pub(crate) fn result(kind: &Kind) -> Option<Line> {
    Some(match kind {
        Kind::ImageBuilt(built) => {
            let (id, size) = (short_id(&built.image_id), human_size(built.bytes));
            let detail = format!("{id} · {size} · {} of {} steps cached", built.cached, built.vertices);
            line("built", &built.image, detail)
        }
        Kind::ImageUnchanged { image, digest } => {
            line("unchanged", image, format!("the image of the same sources is {digest}"))
        }
        Kind::TestFinished(tested) => line("tested", &tested.image, self::tested(tested)),
        Kind::PushFinished(pushed) => {
            line(if pushed.local { "stored" } else { "pushed" }, &pushed.image, &*pushed.uri)
        }
        Kind::ScanFinished(scanned) => {
            let ignored = match scanned.ignored {
                0 => String::new(),
                number => format!(", {number} ignored"),
            };
            let detail = format!(
                "{} findings{ignored}, {} of them {} or worse",
                scanned.findings, scanned.blocking, scanned.threshold
            );
            line("scanned", &scanned.image, detail)
        }
        Kind::FileWritten { subject, path, .. } => line("wrote", subject, &**path),
        Kind::DefinitionRegistered(registered) if registered.unchanged => {
            let detail = "same content; no new revision registered";
            line("unchanged", &registered.revision, detail)
        }
        Kind::DefinitionRegistered(registered) => line("registered", &registered.revision, &*registered.arn),
        Kind::DefinitionRendered { family, file, changes_only } => {
            line(if *changes_only { "planned" } else { "rendered" }, family, &**file)
        }
        Kind::TaskFinished(task) => {
            let detail =
                format!("{} · {} in {:.0} s", task.cluster, task.revision, task.elapsed.as_secs_f64());
            line("ran", &task.subject, detail)
        }
        Kind::TaskPlanned { family, cluster } => {
            line("planned", family, format!("would run once in {cluster}"))
        }
        Kind::DeploymentPlanned { service, family } => {
            line("planned", service, format!("would run a new revision of {family}"))
        }
        Kind::DeploymentFinished(deployed) => {
            let (cluster, revision) = (&deployed.cluster, &deployed.revision);
            match deployed.status {
                DeploymentStatus::Successful => {
                    let seconds = deployed.elapsed.as_secs_f64();
                    line("deployed", &deployed.service, format!("{cluster} · {revision} in {seconds:.0} s"))
                }
                DeploymentStatus::Unchanged => {
                    line("unchanged", &deployed.service, format!("{cluster} · already runs {revision}"))
                }
                DeploymentStatus::Unconfirmed => line(
                    "updated",
                    &deployed.service,
                    format!("{cluster} · {revision}; the deployment's progress is unknown"),
                ),
                // The failure reports it.
                _ => return None,
            }
        }
        Kind::ScheduleMoved { name, before, after } => {
            line("moved", name, format!("now starts {after} instead of {before}"))
        }
        _ => return None,
    })
}

fn tested(tested: &Tested) -> String {
    let counted = tested.counts.map(|Counts { run, failed, skipped }| {
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        format!("{run} tests, {failed} failed{skipped}")
    });
    match (&tested.failure, counted) {
        (Some(reason), _) => format!("failed: {reason}"),
        (None, Some(counted)) => counted,
        (None, None) => "passed".to_owned(),
    }
}

/// The line of the log about a deployment's state, if the event is one.
pub(crate) fn deployment_state(kind: &Kind) -> Option<String> {
    match kind {
        Kind::DeploymentState { service, state, is_one_of_many: true } => Some(format!("{service}: {state}")),
        Kind::DeploymentState { state, .. } => Some(state.to_string()),
        _ => None,
    }
}

/// The first twelve digits of an id, as `docker` shows it.
fn short_id(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Built, TestCase};
    use crate::secret::Masks;

    #[test]
    fn ids_are_short() {
        let masks = Masks::default();
        let built = Built {
            image: masks.shown("app"),
            image_id: masks.shown("sha256:0123456789abcdef"),
            bytes: 1000,
            cached: 1,
            vertices: 3,
        };
        let expected = line("built", "app", "0123456789ab · 1.0 kB · 1 of 3 steps cached");
        assert_eq!(result(&Kind::ImageBuilt(built)), Some(expected));
    }

    #[test]
    fn failed_cases_follow_their_image() {
        let masks = Masks::default();
        let mut summary = Summary::default();
        for number in 0..NAMED + 2 {
            summary.add(&Kind::TestCase(TestCase {
                name: masks.shown(&format!("t{number}")),
                status: CaseStatus::Failed,
                message: None,
            }));
        }
        let counts = Some(Counts { run: 30, failed: NAMED + 2, skipped: 1 });
        let failure = Some(masks.shown("exit code 1"));
        summary.add(&Kind::TestFinished(Tested { image: masks.shown("app"), counts, failure }));
        let lines = summary.lines();
        assert_eq!(lines.len(), NAMED + 2);
        assert_eq!(lines[0], line("tested", "app", "failed: exit code 1"));
        assert_eq!(lines[NAMED + 1], line("failed", "…", "2 more, in the log above"));
    }
}
