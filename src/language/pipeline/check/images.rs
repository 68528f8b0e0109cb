//! Checks of images: names, tags, contexts, `depends-on`.

use super::unknown_image;
use crate::language::diagnostic::{Diagnostic, MAX_PROBLEMS};
use crate::language::pipeline::model::{Action, Name, Pipeline, is_stage_name};
use crate::language::pipeline::template::{Builtin, Reference, Template, variable_part};
use crate::language::source::Span;
use std::collections::{HashMap, HashSet};

pub(crate) fn check(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let mut variables: HashMap<String, (&str, Span)> = HashMap::new();
    // The image of each tag, by repository.
    let mut addresses: HashMap<String, HashMap<String, &str>> = HashMap::new();
    let pushed: HashSet<&str> = pipeline
        .steps()
        .filter_map(|step| match &step.action {
            Action::Push(images) => Some(images),
            _ => None,
        })
        .flatten()
        .map(|name| name.value.as_str())
        .collect();
    for (name, image) in &pipeline.images {
        if let Some((other, place)) = variables.insert(variable_part(name), (name, image.span)) {
            let message = format!(
                "the images `{other}` and `{name}` would share the variable RUNNER_IMAGE_{}_URI",
                variable_part(name)
            );
            problems.push(
                Diagnostic::new(message, image.span)
                    .related(place, "the other one")
                    .help("rename one of them"),
            );
        }
        // Lifecycle rules delete only pushed images.
        let is_pushed = pushed.contains(name.as_str());
        if is_pushed && !image.tags.is_empty() && !image.tags.iter().any(|tag| pipeline.is_of_one_commit(tag))
        {
            problems.push(
                Diagnostic::new(format!("no tag of the image `{name}` is unique to the commit"), image.tags[0].span)
                    .help("add `\"${source.commit}\"`: once a tag moves, lifecycle rules can delete an image that is in use"),
            );
        }
        let tags = addresses.entry(written(&image.repository)).or_default();
        for tag in &image.tags {
            if let Some(other) = tags.insert(written(tag), name).filter(|other| *other != name.as_str())
                && is_pushed
                && pushed.contains(other)
            {
                let message = format!(
                    "the images `{other}` and `{name}` would be pushed to the same tag of the same repository"
                );
                problems.push(
                    Diagnostic::new(message, image.span)
                        .related(pipeline.images[other].span, "the other one")
                        .help("change the tag or the repository of one of them"),
                );
                break;
            }
        }
        for (reference, _, span) in image.tags.iter().flat_map(Template::places) {
            problems.extend(unfit_for_tags(reference, span));
        }
        for (context, _) in &image.contexts {
            if !is_stage_name(context) {
                problems.push(
                    Diagnostic::new(format!("`{context}` is not a valid context name"), image.span)
                        .help("it becomes a stage of the Dockerfile: start with a letter, then use letters, digits, `-`, `_` and `.`"),
                );
            }
        }
        for other in &image.depends_on {
            if !pipeline.images.contains_key(&other.value) && problems.len() < MAX_PROBLEMS {
                problems.push(unknown_image(pipeline, &other.value, other.span));
            }
        }
    }
    circles(pipeline, problems);
}

/// Warns about values that are not always valid in tags.
fn unfit_for_tags(reference: &Reference, span: Span) -> Option<Diagnostic> {
    let (problem, help) = match reference {
        Reference::Builtin(Builtin::SourceBranch) => {
            ("can contain `/`", "`source.branch.slug` is the branch as a valid tag")
        }
        Reference::Builtin(Builtin::BuildId) => ("contains `:` in CodeBuild", "use `build.number`"),
        Reference::Builtin(Builtin::BuildUrl | Builtin::ImageUri(_) | Builtin::ImageDigest(_)) => {
            ("contains `:`", "use `source.commit`")
        }
        _ => return None,
    };
    let message = format!("`${{{reference}}}` {problem}, which is not allowed in tags");
    Some(Diagnostic::new(message, span).warning().help(help))
}

/// A template as text, to compare.
fn written(template: &Template) -> String {
    template.render(str::to_owned, |reference, default| {
        format!("${{{reference}:-{}}}", default.unwrap_or_default())
    })
}

/// Reports circles of `depends-on`.
fn circles(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let mut done = HashSet::new();
    for start in pipeline.images.keys() {
        // The path to the current image; each image with the number of its dependencies that have been followed.
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        let mut on_path: HashMap<&str, usize> = HashMap::from([(start.as_str(), 0)]);
        while let Some((name, followed)) = path.last_mut() {
            let name = *name;
            let image = pipeline.images.get(name).filter(|_| !done.contains(name));
            let next = image.and_then(|image| image.depends_on.get(*followed));
            *followed += 1;
            let Some(next) = next else {
                done.insert(name);
                on_path.remove(name);
                path.pop();
                continue;
            };
            if let Some(begin) = on_path.get(next.value.as_str()) {
                if problems.len() < MAX_PROBLEMS {
                    problems.push(circle(&path[*begin..], next));
                }
            } else {
                on_path.insert(&next.value, path.len());
                path.push((&next.value, 0));
            }
        }
    }
}

fn circle(path: &[(&str, usize)], back: &Name) -> Diagnostic {
    let message = if let [(only, _)] = path {
        format!("the image `{only}` depends on itself")
    } else {
        let names: Vec<&str> = path.iter().map(|(name, _)| *name).chain([back.value.as_str()]).collect();
        format!("`depends-on` is circular: {}", names.join(" → "))
    };
    Diagnostic::new(message, back.span).help("remove one of these dependencies")
}
