//! Whether what steps need has been made when they run: built, pushed, registered.

use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{
    Action, Name, Phase, PhaseName, Pipeline, Step, StepId, Use, When, Zone,
};
use crate::language::source::Span;
use std::collections::{BTreeMap, HashMap};

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
pub(crate) struct Flow<'p, 'd> {
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
    pub(crate) fn new(
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

    pub(crate) fn check(&mut self) {
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
            Action::TaskDefinition(definition) if definition.registers() => {
                vec![(Thing::Registered, step.span)]
            }
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
