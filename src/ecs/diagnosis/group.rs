//! Groups failed tasks by their cause.

use super::{Cause, ContainerLog, Evidence};
use crate::ecs::task::Task;
use crate::text::one_line;

/// Tasks that stopped for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CauseGroup {
    pub(crate) cause: Cause,
    pub(crate) tasks: Vec<String>,
    /// ECS's stop code of the first task.
    pub(crate) stop_code: Option<String>,
    /// ECS's message about the first task.
    pub(crate) reason: Option<String>,
    /// The exit code of the container that caused it.
    pub(crate) exit_code: Option<i32>,
    /// The last log lines of the first task.
    pub(crate) logs: Vec<ContainerLog>,
}

/// Groups tasks by their cause, the most frequent cause first.
pub(crate) fn group(causes: &[(Evidence<'_>, Cause)]) -> Vec<CauseGroup> {
    let mut groups: Vec<CauseGroup> = Vec::new();
    for (evidence, cause) in causes {
        let id = evidence.task.id().to_owned();
        match groups.iter_mut().find(|group| group.cause == *cause) {
            Some(group) => group.tasks.push(id),
            None => groups.push(CauseGroup::of(evidence, cause, id)),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.tasks.len()));
    groups
}

impl CauseGroup {
    fn of(evidence: &Evidence<'_>, cause: &Cause, id: String) -> Self {
        let task = evidence.task;
        let named = |name: &str| task.containers.iter().find(|container| container.name == name);
        let container = cause.container.as_deref().and_then(named);
        Self {
            cause: cause.clone(),
            tasks: vec![id],
            stop_code: task.stop_code.clone(),
            reason: reason(task, container.and_then(|container| container.reason.as_deref())),
            exit_code: container.and_then(|container| container.exit_code),
            logs: evidence.logs.to_vec(),
        }
    }

    /// The log lines: the cause, the containers' last lines, the help. Empty for events, which are logged already.
    pub(crate) fn lines(&self) -> Vec<String> {
        if self.tasks.is_empty() {
            return Vec::new();
        }
        let tasks = match self.tasks.len() {
            1 => "1 task".to_owned(),
            count => format!("{count} tasks"),
        };
        let mut lines = vec![format!("{tasks}: {}{}", self.cause.sentence, self.ecs_message())];
        for log in self.shown() {
            lines.extend(log.lines.iter().map(|line| format!("  {} | {line}", log.container)));
        }
        lines.extend(self.cause.help.iter().map(|help| format!("  help: {help}")));
        lines
    }

    /// ECS's message in parentheses, unless the sentence already contains it.
    fn ecs_message(&self) -> String {
        let reason = self
            .reason
            .as_deref()
            .filter(|reason| !self.cause.sentence.contains(reason.trim_end_matches('.')));
        let parts: Vec<&str> = self.stop_code.as_deref().into_iter().chain(reason).collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(": ")) }
    }

    /// The log of the container that caused it, or all logs if that one is empty.
    fn shown(&self) -> impl Iterator<Item = &ContainerLog> {
        let is_it = |log: &&ContainerLog| Some(&log.container) == self.cause.container.as_ref();
        let has_lines = self.logs.iter().any(|log| is_it(&log) && !log.lines.is_empty());
        self.logs.iter().filter(move |log| !has_lines || is_it(log))
    }
}

/// ECS's message about the task, with the one about the container if that adds something.
fn reason(task: &Task, of_container: Option<&str>) -> Option<String> {
    let line = |text: &str| Some(one_line(text)).filter(|text| !text.is_empty());
    match (task.stopped_reason.as_deref().and_then(line), of_container.and_then(line)) {
        (Some(task), Some(container)) if !task.contains(&container) => Some(format!("{task}: {container}")),
        (task, container) => task.or(container),
    }
}

impl CauseGroup {
    /// A cause that is known only from a service event.
    pub(crate) fn of_event(cause: Cause) -> Self {
        Self { cause, tasks: Vec::new(), stop_code: None, reason: None, exit_code: None, logs: Vec::new() }
    }
}
