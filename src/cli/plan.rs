//! `runner plan`.

use super::load::{self, Loaded};
use super::session::Session;
use super::{facts, run};
use crate::exit::{Exit, Failure};
use crate::language::diagnostic::{self, Severity};
use crate::language::pipeline;
use crate::language::pipeline::model::{Action, PhaseName, TaskDefinitionBase};
use crate::language::pipeline::template::{Builtin, Reference};
use crate::plan::asks::{AskList, Unknowns};
use crate::plan::outline::{ChangeOutline, Input, Outline, PhaseOutline, StepOutline, outline};
use crate::plan::{self, condition};
use clap::Args;
use std::collections::HashMap;
use std::path::PathBuf;

/// Show what a run would do for this commit, branch and environment, and what it would change
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag")]
#[command(after_help = "\
Examples:
  runner plan            as CodeBuild would run it, with this commit and branch
  runner plan --local    as `runner run` would run it here
  RUNNER_BRANCH=main runner plan --json | jq '.phases[].steps[].changes'

It changes nothing and needs neither Docker nor credentials.")]
pub(crate) struct Arguments {
    /// The pipeline file
    #[arg(long, short, default_value = "pipeline.yml", value_name = "FILE")]
    file: PathBuf,
    /// Plan only this phase; can be given several times
    #[arg(long = "phase", value_name = "PHASE", value_parser = run::phase)]
    phases: Vec<PhaseName>,
    /// Plan for publishing (the default)
    #[arg(long, conflicts_with = "local")]
    publish: bool,
    /// Plan for a run that connects to nothing but Docker
    #[arg(long)]
    local: bool,
    /// Skip the steps that publish, for a project that only tests
    #[arg(long)]
    no_publish: bool,
    /// Take variables and secrets from a file of KEY=value lines
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) async fn main(arguments: &Arguments, session: &Session) -> Result<Exit, Failure> {
    let request = load::Request {
        file: &arguments.file,
        mode: load::mode(arguments.publish, arguments.local),
        no_publish: arguments.no_publish,
        env_file: arguments.env_file.as_deref(),
        elsewhere: true,
        json: arguments.json,
    };
    let loaded = load::load(&request, session).await?;
    let Loaded { pipeline, source, directory, context, mode, values, .. } = &loaded;
    let facts = facts::facts(pipeline, values, directory);
    let left_out = condition::left_out(&condition::verdicts(pipeline, context));
    let mut problems = plan::undefined_uses(pipeline, *mode, values, &left_out);
    problems.extend(pipeline::unmet(pipeline, &left_out));
    problems.extend(facts::compare(pipeline, &facts.definitions));
    problems.retain(|problem| problem.severity == Severity::Error);
    if let Some(phase) = arguments.phases.iter().find(|phase| pipeline.phase(**phase).is_none()) {
        return Err(Failure::usage(format!("the pipeline has no phase `{phase}`")));
    }
    if !problems.is_empty() {
        diagnostic::sort(&mut problems);
        return Err(load::refuse(source, &problems, arguments.json, &session.printer));
    }
    let place = (context.region.as_deref(), context.account.as_deref());
    let asks = AskList::new(pipeline, values, &facts, Unknowns::Written, place);
    let sizes = facts::context_sizes(pipeline, values, directory);
    let mut outline = outline(&Input {
        pipeline,
        selected: &arguments.phases,
        context,
        mode: *mode,
        values,
        asks: &asks,
        sizes: &sizes,
    });
    outline.unknown = unknowns(&loaded, &facts.definitions, &outline);
    outline.refused = pipeline
        .unready
        .iter()
        .map(|problem| {
            let (line, column) = source.line_column(problem.span.start);
            format!("{}:{line}:{column}: {}", source.name, problem.message)
        })
        .collect();
    if arguments.json {
        session.printer.json(&outline)?;
    } else {
        session.printer.result(&text(&outline))?;
    }
    Ok(Exit::Done)
}

/// The values that are unknown before the run.
fn unknowns(
    loaded: &Loaded,
    definitions: &HashMap<pipeline::model::StepId, plan::facts::Definition>,
    outline: &Outline,
) -> Vec<String> {
    let Loaded { pipeline, context, values, .. } = loaded;
    let steps = outline.phases.iter().flat_map(|phase| phase.steps.iter().chain(&phase.finally));
    let targets: Vec<&str> =
        steps.flat_map(StepOutline::all_changes).map(|change| change.target.as_str()).collect();
    let mut unknown = Vec::new();
    let mut used: Vec<&Reference> =
        pipeline.uses.iter().filter(|used| !used.has_default).map(|used| &used.reference).collect();
    used.dedup();
    let mut say = |text: String| {
        if !unknown.contains(&text) {
            unknown.push(text);
        }
    };
    if context.commit.is_none() {
        say(format!("the commit: {}, and CodeBuild names none", context.no_commit()));
    }
    if targets.iter().any(|target| target.contains(":REGION:") || target.contains(".REGION.amazonaws")) {
        say("the region: AWS_REGION is not set".to_owned());
    }
    if targets.iter().any(|target| target.contains(":ACCOUNT:") || target.starts_with("ACCOUNT.dkr")) {
        say("the account: only CodeBuild and AWS know it".to_owned());
    }
    for reference in used {
        let known = match reference {
            Reference::Env(name) => {
                values.get(name).is_some() || pipeline.env.secret_names().any(|secret| secret == name)
            }
            // Listed above, or made by the run.
            Reference::Builtin(
                Builtin::SourceCommit
                | Builtin::SourceCommitShort
                | Builtin::AwsRegion
                | Builtin::AwsAccount
                | Builtin::BuildId
                | Builtin::ImageUri(_)
                | Builtin::ImageDigest(_),
            ) => true,
            Reference::Builtin(builtin) => context.builtins().contains_key(builtin),
        };
        // If the commit is known, so are its branch and its tag.
        let is_absent = context.commit.is_some()
            && matches!(
                reference,
                Reference::Builtin(Builtin::SourceTag | Builtin::SourceBranch | Builtin::SourceBranchSlug)
            );
        if is_absent {
            if !context.builtins().keys().any(|builtin| Reference::Builtin(builtin.clone()) == *reference) {
                say(format!("${{{reference}}}: this build has none, so a run that needs it is refused"));
            }
        } else if !known {
            say(format!("${{{reference}}}: it gets its value during the run"));
        }
    }
    for step in pipeline.steps() {
        if let Action::TaskDefinition(definition) = &step.action
            && definition.registers()
        {
            match &definition.base {
                TaskDefinitionBase::File(_) if !definitions.contains_key(&step.id) => {
                    say("the family: the task definition's file cannot be read here".to_owned());
                }
                TaskDefinitionBase::Service { .. } => {
                    say("the family: only ECS knows what the service runs".to_owned());
                }
                _ => {}
            }
        }
    }
    unknown
}

/// The plan as text.
fn text(outline: &Outline) -> String {
    let mut text = format!("{} · {} · {}\n", outline.pipeline, outline.mode.as_str(), source(outline));
    for phase in &outline.phases {
        phase_text(phase, &mut text);
    }
    if !outline.images.is_empty() {
        text.push_str("\nimages\n");
    }
    for image in &outline.images {
        let size = match (image.size.files, image.size.bytes, &image.size.problem) {
            (Some(files), Some(bytes), _) => {
                let plural = if files == 1 { "" } else { "s" };
                format!("{files} file{plural}, {}", crate::text::human_size(bytes))
            }
            (_, _, Some(problem)) => problem.clone(),
            _ => "unknown".to_owned(),
        };
        text.push_str(&format!(
            "  {}\n    repository  {}\n    tags        {}\n    context     {} ({size})\n",
            image.name,
            image.repository,
            image.tags.join(", "),
            image.context,
        ));
    }
    let mut list = |heading: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("\n{heading}\n"));
            for line in lines {
                text.push_str(&format!("  {line}\n"));
            }
        }
    };
    list("notifications", outline.notifications.iter().map(change_text).collect());
    list("unknown before the run", outline.unknown.clone());
    list("refused by `run` of this version", outline.refused.clone());
    text
}

fn source(outline: &Outline) -> String {
    let source = &outline.source;
    let name = match (&source.tag, &source.branch) {
        (Some(tag), _) => format!("tag {tag}"),
        (None, Some(branch)) => format!("branch {branch}"),
        (None, None) => "no branch known".to_owned(),
    };
    let commit =
        source.commit.as_deref().map_or("no commit known", |commit| commit.get(..7).unwrap_or(commit));
    format!("{name} · {commit} · {}", source.event)
}

fn phase_text(phase: &PhaseOutline, text: &mut String) {
    let when = match phase.when {
        "success" => String::new(),
        other => format!(" (when: {other})"),
    };
    text.push_str(&format!("\n{}{when}\n", phase.name));
    for step in &phase.steps {
        step_text(step, phase.when, 1, text);
    }
    if !phase.finally.is_empty() {
        text.push_str("  finally\n");
    }
    for step in &phase.finally {
        step_text(step, "always", 2, text);
    }
    if phase.steps.is_empty() && phase.finally.is_empty() {
        text.push_str("  nothing to do\n");
    }
}

fn step_text(step: &StepOutline, default: &str, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    let mark = match step.verdict {
        "left-out" => "-",
        "unknown" => "?",
        _ => "+",
    };
    let when = if step.when == default { String::new() } else { format!(" (when: {})", step.when) };
    let reason = step.reason.as_ref().map(|reason| format!(" — {reason}")).unwrap_or_default();
    text.push_str(&format!("{indent}{mark} {}{when}{reason}\n", step.title));
    for change in &step.changes {
        text.push_str(&format!("{indent}    {}\n", change_text(change)));
    }
    for inner in &step.parallel {
        step_text(inner, step.when, depth + 1, text);
    }
}

fn change_text(change: &ChangeOutline) -> String {
    let condition = change.condition.as_ref().map(|condition| format!(" ({condition})")).unwrap_or_default();
    let role = change.role.as_ref().map(|role| format!(" as {role}")).unwrap_or_default();
    format!("{} {}{condition}{role}", change.action, change.target)
}
