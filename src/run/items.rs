//! Turns the phases and steps of a pipeline into the phases and items of the engine.

use crate::backoff::Backoff;
use crate::engine::{Attempt, Item, Phase, Retry, Task, When, Work};
use crate::event::{Id, SkipCode};
use crate::language::pipeline::model::{self, Action, Step};
use crate::plan::{self, Plan};
use crate::process::Stopping;
use crate::step::{self, Shared, StepScope};
use std::time::Duration;

/// The longest delay between two attempts of a step.
const LONGEST_DELAY: Duration = Duration::from_mins(5);

/// The phases of this call.
pub(crate) fn phases<'r>(shared: &'r Shared, plan: &'r Plan, stopping: &'r Stopping) -> Vec<Phase<'r>> {
    let phases = plan.phases.iter().filter_map(|name| shared.project.pipeline.phase(*name));
    phases.map(|phase| self::phase(&Items { shared, plan, stopping }, phase)).collect()
}

/// Creates items.
struct Items<'r> {
    shared: &'r Shared,
    plan: &'r Plan,
    stopping: &'r Stopping,
}

fn phase<'r>(items: &Items<'r>, phase: &'r model::Phase) -> Phase<'r> {
    let id = Id::phase(phase.name.as_str());
    let all = |steps: &'r [Step], finally: bool| {
        let numbered = steps.iter().zip(1..);
        numbered.map(|(step, number)| items.item(id.step(number, finally), step)).collect()
    };
    Phase {
        name: phase.name.to_string(),
        when: when(phase.when),
        timeout: phase.timeout,
        items: all(&phase.steps, false),
        finally: all(&phase.finally, true),
    }
}

impl<'r> Items<'r> {
    fn item(&self, id: Id, step: &'r Step) -> Item<'r> {
        let (shared, plan) = (self.shared, self.plan);
        let work = match &step.action {
            Action::Parallel(members) => {
                let members = members.iter().zip(1..);
                Work::Group(members.map(|(member, number)| self.item(id.member(number), member)).collect())
            }
            action => Work::Task(Task {
                stop_timeout: step::stop_timeout(action, self.stopping.grace),
                run: Box::new(move |attempt| Box::pin(self::attempt(shared, step, attempt))),
            }),
        };
        Item {
            id,
            kind: step.action.kind(),
            line: Some(shared.project.source.line_column(step.span.start).0),
            // Masked before it is cut: the masks do not recognise half a secret.
            title: Box::new(move || {
                plan::title(step, &shared.values(), &|text| shared.project.masks.text(text))
            }),
            skip: plan.skip_reason(step).map(|reason| (skip_code(reason), self.skip_text(step, reason))),
            when: step.when.map(when),
            retry: step.retry.map(retry),
            timeout: step.timeout,
            work,
        }
    }

    /// The reason for skipping a step, and what CodeBuild makes of it if files are missing that it takes as artifacts.
    fn skip_text(&self, step: &Step, reason: &str) -> String {
        let context = &self.shared.project.context;
        let publishes_nothing = reason == plan::condition::PULL_REQUEST
            || context.publishes_nothing.as_deref().is_some_and(|known| known == reason);
        if publishes_nothing && context.in_codebuild() && step.action.writes_artifacts() {
            format!(
                "{reason}; CodeBuild fails if its `artifacts` match no file: list pipeline.yml there, too"
            )
        } else {
            reason.to_owned()
        }
    }
}

async fn attempt(shared: &Shared, step: &Step, attempt: Attempt) -> Result<(), crate::exit::Failure> {
    let Attempt { events, output, stopping } = attempt;
    let scope = StepScope::new(shared, step, events, output, stopping)?;
    step::run(&scope, step).await
}

/// Delays vary a little, so that builds that failed together do not retry together.
fn retry(retry: model::Retry) -> Retry {
    let backoff =
        Backoff { first: retry.delay, factor: f64::from(retry.backoff), maximum: LONGEST_DELAY, jitter: 0.2 };
    Retry { attempts: retry.attempts, backoff }
}

fn when(when: model::When) -> When {
    match when {
        model::When::Success => When::Success,
        model::When::Failure => When::Failure,
        model::When::Always => When::Always,
    }
}

fn skip_code(reason: &str) -> SkipCode {
    if reason == plan::condition::PULL_REQUEST { SkipCode::PullRequest } else { SkipCode::Condition }
}
