//! What the parts of a pipeline say of each other: everything that is named must exist, and be there when it is used.

use super::diagnostic::Diagnostic;
use super::model::{
    Action, Name, Phase, PhaseName, Pipeline, Step, StepId, TaskDefinition, TaskDefinitionBase, Use, When,
    Zone,
};
use super::source::Span;
use super::template::{Builtin, Reference, Template, variable_part};
use crate::text::{closest, listed};
use std::collections::{BTreeMap, HashMap, HashSet};

/// More mistakes than anybody reads at once: beyond so many, the costly checks end.
const ENOUGH: usize = 500;

/// Reports every reference to something that the file does not define, and every use of something that cannot be there.
/// `whole` says that no step was lost on the way, so that what steps give each other can be judged.
pub(super) fn references(pipeline: &Pipeline, whole: bool, problems: &mut Vec<Diagnostic>) {
    images(pipeline, problems);
    names(pipeline, problems);
    secrets(pipeline, problems);
    containers(pipeline, problems);
    families(pipeline, problems);
    for used in pipeline.uses.iter().filter(|used| used.zone == Zone::Variables) {
        early(pipeline, used, problems);
    }
    if whole {
        Flow::new(pipeline, &HashMap::new(), problems).check();
    }
}

/// Reports every step of this build that needs what only steps make that are left out of it, with the reasons why they are.
pub fn unmet(pipeline: &Pipeline, left_out: &HashMap<StepId, String>) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    if !left_out.is_empty() {
        Flow::new(pipeline, left_out, &mut problems).check();
    }
    problems
}

fn images(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let mut variables: HashMap<String, (&str, Span)> = HashMap::new();
    // The images of each tag of each repository.
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
                    .help("rename one of the two"),
            );
        }
        // What is not pushed, no lifecycle rule deletes.
        let is_pushed = pushed.contains(name.as_str());
        if is_pushed && !image.tags.is_empty() && !image.tags.iter().any(|tag| is_unique(pipeline, tag)) {
            problems.push(
                Diagnostic::new(format!("no tag of the image `{name}` is unique to the commit"), image.tags[0].span)
                    .help("add `\"${source.commit}\"`: when a tag moves on, lifecycle rules can delete the image that runs"),
            );
        }
        let tags = addresses.entry(written(&image.repository)).or_default();
        for tag in &image.tags {
            if let Some(other) = tags.insert(written(tag), name).filter(|other| *other != name.as_str())
                && is_pushed
                && pushed.contains(other)
            {
                let message =
                    format!("the images `{other}` and `{name}` would be pushed to one tag of one repository");
                problems.push(
                    Diagnostic::new(message, image.span)
                        .related(pipeline.images[other].span, "the other one")
                        .help("give one of the two another tag or repository"),
                );
                break;
            }
        }
        for (reference, _, span) in image.tags.iter().flat_map(Template::places) {
            problems.extend(unfit_for_tags(reference, span));
        }
        for other in &image.depends_on {
            if !pipeline.images.contains_key(&other.value) && problems.len() < ENOUGH {
                problems.push(unknown_image(pipeline, &other.value, other.span));
            }
        }
    }
    circles(pipeline, problems);
}

/// Values that make no tag, or not always one.
fn unfit_for_tags(reference: &Reference, span: Span) -> Option<Diagnostic> {
    let (problem, help) = match reference {
        Reference::Builtin(Builtin::SourceBranch) => {
            ("can hold a `/`", "`source.branch.slug` is a branch made fit")
        }
        Reference::Builtin(Builtin::BuildId) => ("holds a `:` in CodeBuild", "`build.number` has none"),
        Reference::Builtin(Builtin::BuildUrl | Builtin::ImageUri(_) | Builtin::ImageDigest(_)) => {
            ("holds a `:`", "use `source.commit`")
        }
        _ => return None,
    };
    let message = format!("`${{{reference}}}` {problem}, which no tag may");
    Some(Diagnostic::new(message, span).warning().help(help))
}

/// A template as the file has it.
fn written(template: &Template) -> String {
    template.render(str::to_owned, |reference, default| {
        format!("${{{reference}:-{}}}", default.unwrap_or_default())
    })
}

/// Whether a tag can differ from commit to commit. Of variables that the file does not give nothing is known.
fn is_unique(pipeline: &Pipeline, tag: &Template) -> bool {
    // Variables that have been followed without success need not be followed again.
    fn unique<'p>(pipeline: &'p Pipeline, template: &'p Template, seen: &mut HashSet<&'p str>) -> bool {
        template.references().any(|reference| match reference {
            Reference::Builtin(Builtin::SourceBranch | Builtin::SourceBranchSlug) => false,
            Reference::Builtin(Builtin::AwsRegion | Builtin::AwsAccount) => false,
            Reference::Builtin(_) => true,
            Reference::Env(name) => match pipeline.env.variables.get(name) {
                None => true,
                Some(value) => seen.len() < ENOUGH && seen.insert(name) && unique(pipeline, value, seen),
            },
        })
    }
    unique(pipeline, tag, &mut HashSet::new())
}

/// Follows `depends-on` from every image, and reports where it comes back.
fn circles(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let mut done = HashSet::new();
    for start in pipeline.images.keys() {
        // The way so far, each image with the number of its dependencies that have been followed.
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
                if problems.len() < ENOUGH {
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
        format!("`depends-on` goes in a circle: {}", names.join(" → "))
    };
    Diagnostic::new(message, back.span).help("take one of these dependencies out")
}

fn names(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let known: HashSet<&str> = pipeline.env.names().collect();
    for secret in pipeline.images.values().flat_map(|image| &image.secrets) {
        secret_exists(pipeline, &known, secret, problems);
    }
    for step in pipeline.steps() {
        if problems.len() > ENOUGH {
            return;
        }
        for image in step.action.images() {
            if !pipeline.images.contains_key(&image.value) && problems.len() < ENOUGH {
                problems.push(unknown_image(pipeline, &image.value, image.span));
            }
        }
        if let Action::Test(test) = &step.action {
            for secret in &test.secrets {
                secret_exists(pipeline, &known, secret, problems);
            }
        }
    }
    for used in &pipeline.uses {
        if let Some(name) = used.image()
            && !pipeline.images.contains_key(name)
            && problems.len() < ENOUGH
        {
            problems.push(unknown_image(pipeline, name, used.span));
        }
    }
}

impl Use {
    /// The image whose address or digest is referred to.
    fn image(&self) -> Option<&str> {
        match &self.reference {
            Reference::Builtin(Builtin::ImageUri(name) | Builtin::ImageDigest(name)) => Some(name),
            _ => None,
        }
    }
}

fn unknown_image(pipeline: &Pipeline, name: &str, span: Span) -> Diagnostic {
    let known = || pipeline.images.keys().map(String::as_str);
    let help = match closest(name, known()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None if pipeline.images.is_empty() => "the file describes no image; add it under `images`".to_owned(),
        None => format!("known images: {}", listed(known())),
    };
    Diagnostic::new(format!("there is no image `{name}`"), span).help(help)
}

fn secret_exists(pipeline: &Pipeline, known: &HashSet<&str>, name: &Name, problems: &mut Vec<Diagnostic>) {
    if known.contains(name.value.as_str()) || problems.len() > ENOUGH {
        return;
    }
    let help = closest(&name.value, pipeline.env.names()).map_or_else(
        || "secrets are named under `env`, in `parameter-store` or `secrets-manager`".to_owned(),
        |candidate| format!("did you mean `{candidate}`?"),
    );
    problems.push(Diagnostic::new(format!("`env` gives no `{}`", name.value), name.span).help(help));
}

/// Secrets must not get where they stay: into the history or the labels of images, into tags.
fn secrets(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    // Variables that hold a secret, and which one.
    let mut secret: HashMap<&str, &str> =
        pipeline.secret_names().into_iter().map(|name| (name, name)).collect();
    // A variable that is made of a secret is one. Variables may refer to those before them.
    let tables = std::iter::once(&pipeline.env.variables).chain(pipeline.steps().map(|step| &step.env));
    for (name, value) in tables.flatten() {
        if let Some(root) = secret_in(value, &secret) {
            secret.entry(name).or_insert(root);
        }
    }
    for image in pipeline.images.values() {
        for value in image.args.values() {
            if let Some(name) = secret_in(value, &secret) {
                let message = format!(
                    "the secret `{name}` is passed as a build argument, which stays in the image's history"
                );
                let help = format!(
                    "write `secrets: [{name}]` for the image, and `RUN --mount=type=secret,id={name}` in the Dockerfile"
                );
                problems.push(Diagnostic::new(message, value.span).help(help));
            }
        }
        for (what, values) in [
            ("a label", image.labels.values().collect::<Vec<_>>()),
            ("a tag", image.tags.iter().collect()),
            ("the address", vec![&image.repository]),
        ] {
            for value in values {
                if let Some(name) = secret_in(value, &secret) {
                    let message = format!("the secret `{name}` would be readable in {what} of the image");
                    problems
                        .push(Diagnostic::new(message, value.span).help("use a variable that is no secret"));
                }
            }
        }
    }
    for definition in pipeline.steps().filter_map(task_definition) {
        for value in definition.containers.values().flat_map(|container| container.environment.values()) {
            if let Some(name) = secret_in(value, &secret) {
                let message = format!("the secret `{name}` would be readable in the task definition");
                problems.push(
                    Diagnostic::new(message, value.span)
                        .warning()
                        .help("let ECS inject it: `secrets: { NAME: ARN }` in the task definition"),
                );
            }
        }
    }
}

fn task_definition(step: &Step) -> Option<&TaskDefinition> {
    match &step.action {
        Action::TaskDefinition(definition) => Some(definition),
        _ => None,
    }
}

/// The secret that a template holds.
fn secret_in<'p>(value: &Template, secret: &HashMap<&str, &'p str>) -> Option<&'p str> {
    value.references().find_map(|reference| match reference {
        Reference::Env(name) => secret.get(name.as_str()).copied(),
        Reference::Builtin(_) => None,
    })
}

/// Families that `deploy` and `run-task` name. Where every family that the pipeline registers is known, one that looks like a
/// typing mistake is one; and where there are several, the step has to say which it means.
fn families(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let mut known: Vec<String> = Vec::new();
    for definition in pipeline.steps().filter_map(task_definition) {
        let family = match &definition.base {
            // A revision may be named with it, or the whole ARN.
            TaskDefinitionBase::Family(family) => family.as_literal().map(|family| {
                let family = family.rsplit('/').next().unwrap_or_default();
                family.split(':').next().unwrap_or_default().to_owned()
            }),
            TaskDefinitionBase::File(_) | TaskDefinitionBase::Service { .. } => None,
        };
        // One that is known elsewhere only may be any.
        let Some(family) = family else { return };
        if !known.contains(&family) {
            known.push(family);
        }
        if known.len() > ENOUGH {
            return;
        }
    }
    for step in pipeline.steps() {
        let named = match &step.action {
            Action::Deploy(deploy) => &deploy.task_definition,
            Action::RunTask(task) => &task.task_definition,
            _ => continue,
        };
        match named {
            Some(template) => {
                let name = template.as_literal().filter(|name| !known.contains(name));
                let meant = name.as_deref().and_then(|name| closest(name, known.iter().map(String::as_str)));
                if let (Some(name), Some(meant)) = (&name, meant) {
                    let message = format!("no step registers the task definition `{name}`");
                    problems.push(
                        Diagnostic::new(message, template.span).help(format!("did you mean `{meant}`?")),
                    );
                }
            }
            // Each build may come to one of them only.
            None if known.len() > 1 => {
                let families = listed(known.iter().map(String::as_str));
                let message = format!("the pipeline registers several task definitions: {families}");
                problems.push(
                    Diagnostic::new(message, step.span)
                        .warning()
                        .help("where one build registers several, say which with `task-definition: FAMILY`"),
                );
            }
            None => {}
        }
    }
}

/// Containers are named in several steps, and only ECS knows all of them: a name that looks like a typing mistake of
/// another one is worth a warning.
fn containers(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let known: HashMap<&str, Span> = pipeline
        .steps()
        .filter_map(task_definition)
        .flat_map(|definition| &definition.containers)
        .map(|(name, container)| (name.as_str(), container.span))
        .collect();
    let named = pipeline.steps().flat_map(|step| match &step.action {
        Action::RunTask(task) => {
            task.container.iter().map(|name| (name.value.as_str(), name.span)).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    });
    for (name, span) in named.filter(|(name, _)| !known.contains_key(name)) {
        if known.len() < ENOUGH
            && problems.len() < ENOUGH
            && let Some(candidate) = closest(name, known.keys().copied())
        {
            problems.push(
                Diagnostic::new(format!("no `task-definition` step mentions the container `{name}`"), span)
                    .warning()
                    .related(known[candidate], "this one is similar")
                    .help(format!("did you mean `{candidate}`?")),
            );
        }
    }
}

/// `env.variables` have their values before anything is fetched or pushed.
fn early(pipeline: &Pipeline, used: &Use, problems: &mut Vec<Diagnostic>) {
    let what = match &used.reference {
        Reference::Env(name) if pipeline.env.secret_names().any(|secret| secret == name) => {
            format!("the secret `{name}`")
        }
        _ => match used.image() {
            Some(image) => format!("the address of the image `{image}`"),
            None => return,
        },
    };
    problems.push(
        Diagnostic::new(format!("{what} is not known yet when `env.variables` get their values"), used.span)
            .help("write it in the `env` of the steps that need it"),
    );
}

/// What steps give each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Built(String),
    Pushed(String),
    Registered,
}

impl Thing {
    fn missing(&self) -> (String, String) {
        match self {
            Self::Built(image) => (
                format!("the image `{image}` is never built"),
                format!("put `build: {image}` before this step"),
            ),
            Self::Pushed(image) => (
                format!("the image `{image}` is used by its address, but never pushed"),
                format!("put `push: {image}` before this step"),
            ),
            Self::Registered => (
                "no task definition is registered that could run".to_owned(),
                "put a `task-definition` step before this one".to_owned(),
            ),
        }
    }

    fn made(&self) -> String {
        match self {
            Self::Built(image) => format!("the image `{image}` is built"),
            Self::Pushed(image) => format!("the image `{image}` is pushed"),
            Self::Registered => "the task definition is registered".to_owned(),
        }
    }
}

/// A step that makes something.
#[derive(Debug, Clone, Copy)]
struct Maker {
    step: StepId,
    when: When,
    phase: PhaseName,
    span: Span,
}

/// What has been made before a step.
type Made = BTreeMap<Thing, Vec<Maker>>;

/// Goes through the steps in the order in which they run.
struct Flow<'p, 'd> {
    pipeline: &'p Pipeline,
    /// Steps that this build does not come to.
    left_out: &'p HashMap<StepId, String>,
    problems: &'d mut Vec<Diagnostic>,
    /// All makers, wherever they stand.
    all: Made,
    /// The addresses of images that steps use, by step.
    of_steps: HashMap<StepId, Vec<&'p Use>>,
    /// Those that images use, by the image's position.
    of_images: HashMap<usize, Vec<&'p Use>>,
}

/// Where a step stands.
#[derive(Clone, Copy)]
struct Place {
    phase: PhaseName,
    when: When,
}

impl<'p, 'd> Flow<'p, 'd> {
    fn new(
        pipeline: &'p Pipeline,
        left_out: &'p HashMap<StepId, String>,
        problems: &'d mut Vec<Diagnostic>,
    ) -> Self {
        let mut all = Made::new();
        for phase in &pipeline.phases {
            for step in phase.all_steps().flat_map(Step::tree) {
                Self::makes(step, Place { phase: phase.name, when: When::Success }, &mut all);
            }
        }
        let (mut of_steps, mut of_images): (HashMap<_, Vec<_>>, HashMap<_, Vec<_>>) = Default::default();
        for used in pipeline.uses.iter().filter(|used| !used.has_default && used.image().is_some()) {
            match used.zone {
                Zone::Step(id) | Zone::StepEnv(id) => of_steps.entry(id).or_default().push(used),
                Zone::Image(position) => of_images.entry(position).or_default().push(used),
                Zone::Start | Zone::Variables | Zone::Notify => {}
            }
        }
        Self { pipeline, left_out, problems, all, of_steps, of_images }
    }

    fn check(&mut self) {
        let mut made = Made::new();
        for phase in &self.pipeline.phases {
            self.phase(phase, &mut made);
        }
    }

    fn phase(&mut self, phase: &Phase, made: &mut Made) {
        for step in &phase.steps {
            let place = Place { phase: phase.name, when: step.when.unwrap_or(phase.when) };
            self.step(step, place, made);
        }
        for step in &phase.finally {
            let place = Place { phase: phase.name, when: step.when.unwrap_or(When::Always) };
            self.step(step, place, made);
        }
    }

    fn step(&mut self, step: &Step, place: Place, made: &mut Made) {
        // The steps of a group run side by side: none can count on what another one makes.
        let steps: Vec<(&Step, Place)> = step
            .tree()
            .into_iter()
            .filter(|inner| !self.left_out.contains_key(&inner.id))
            .map(|inner| (inner, Place { when: inner.when.unwrap_or(place.when), ..place }))
            .collect();
        for (inner, place) in &steps {
            for (thing, span) in self.needs(inner) {
                self.need(&thing, span, *place, made);
            }
        }
        for (inner, place) in steps {
            Self::makes(inner, place, made);
        }
    }

    fn makes(step: &Step, place: Place, made: &mut Made) {
        let things: Vec<(Thing, Span)> = match &step.action {
            Action::Build(images) => {
                // A rebuilt image has to be pushed anew; what was pushed of it before stays known to the registry only.
                images.iter().map(|name| (Thing::Built(name.value.clone()), name.span)).collect()
            }
            Action::Push(images) => {
                images.iter().map(|name| (Thing::Pushed(name.value.clone()), name.span)).collect()
            }
            Action::TaskDefinition(_) => vec![(Thing::Registered, step.span)],
            _ => Vec::new(),
        };
        for (thing, span) in things {
            let maker = Maker { step: step.id, when: place.when, phase: place.phase, span };
            made.entry(thing).or_default().push(maker);
        }
    }

    /// What a step needs, with the places that say so.
    fn needs(&self, step: &Step) -> Vec<(Thing, Span)> {
        let built = |name: &Name| (Thing::Built(name.value.clone()), name.span);
        let pushed = |name: &Name| (Thing::Pushed(name.value.clone()), name.span);
        let mut needs: Vec<(Thing, Span)> = match &step.action {
            Action::Push(images) => images.iter().map(built).collect(),
            Action::Test(test) => vec![built(&test.image)],
            Action::ImageDefinitions(_) | Action::TaskDefinition(_) => {
                step.action.images().into_iter().map(pushed).collect()
            }
            Action::Deploy(deploy) if deploy.task_definition.is_none() => {
                vec![(Thing::Registered, step.span)]
            }
            Action::RunTask(task) if task.task_definition.is_none() => vec![(Thing::Registered, step.span)],
            _ => Vec::new(),
        };
        let mut uses: Vec<&Use> = self.of_steps.get(&step.id).into_iter().flatten().copied().collect();
        if let Action::Build(images) = &step.action {
            for position in images.iter().filter_map(|name| self.pipeline.images.get_index_of(&name.value)) {
                uses.extend(self.of_images.get(&position).into_iter().flatten());
            }
        }
        for used in uses {
            if let Some(image) = used.image() {
                needs.push((Thing::Pushed(image.to_owned()), used.span));
            }
        }
        // What does not exist has been reported.
        needs.retain(|(thing, _)| match thing {
            Thing::Built(image) | Thing::Pushed(image) => self.pipeline.images.contains_key(image),
            Thing::Registered => true,
        });
        needs
    }

    fn need(&mut self, thing: &Thing, span: Span, place: Place, made: &Made) {
        let makers = made.get(thing).map(Vec::as_slice).unwrap_or_default();
        // A step after a failure may find what was made before it, or may not: that only the run can tell.
        let reached = |maker: &Maker| match (maker.when, place.when) {
            (When::Always, _) | (When::Success, When::Success | When::Failure) => true,
            (When::Failure, When::Failure) => true,
            (When::Success, When::Always) | (When::Failure, When::Success | When::Always) => false,
        };
        if makers.iter().any(reached) {
            return;
        }
        let problem = match (makers.last(), self.all.get(thing).and_then(|all| all.first())) {
            (Some(maker), _) => skipped(thing, span, place, *maker),
            (None, Some(other)) if self.left_out.contains_key(&other.step) => {
                let reason = &self.left_out[&other.step];
                Diagnostic::new(
                    format!(
                        "{} by a step that is left out of this build, but this step is not",
                        thing.made()
                    ),
                    span,
                )
                .related(other.span, reason.as_str())
                .help("give both the same `only` and `except`")
            }
            (None, Some(later)) => {
                let (_, help) = thing.missing();
                Diagnostic::new(format!("{} only later, or at the same time", thing.made()), span)
                    .related(later.span, "here")
                    .help(help)
            }
            (None, None) => {
                let (message, help) = thing.missing();
                Diagnostic::new(message, span).help(help)
            }
        };
        self.problems.push(problem);
    }
}

/// The step may run although what it needs was skipped.
fn skipped(thing: &Thing, span: Span, place: Place, maker: Maker) -> Diagnostic {
    let made = thing.made();
    let message = match (place.when, maker.when) {
        (When::Success, _) => format!("{made} only after a failure, when this step is skipped"),
        (_, When::Failure) => format!("{made} only after a failure, but this step also runs without one"),
        _ => {
            let before = if maker.phase == place.phase {
                "a step".to_owned()
            } else {
                format!("the phase `{}`", maker.phase)
            };
            format!(
                "this step also runs after a failure, but {made} in {before}, which may have failed or been skipped then"
            )
        }
    };
    Diagnostic::new(message, span).related(maker.span, "here").help("give both the same `when`")
}
