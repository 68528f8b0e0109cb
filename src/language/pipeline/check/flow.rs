//! Checks that everything a step needs is built, pushed or registered before.

use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{
    Action, Name, Phase, PhaseName, Pipeline, Step, StepId, Use, When, Zone,
};
use crate::language::pipeline::template::Template;
use crate::language::source::Span;
use std::collections::{BTreeMap, HashMap};

/// A result of a step that other steps need.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Product {
    Built(String),
    Pushed(String),
    Registered,
}

impl Product {
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
                "no task definition is registered".to_owned(),
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

/// A step that makes a product.
#[derive(Debug, Clone, Copy)]
struct Maker {
    step: StepId,
    when: When,
    phase: PhaseName,
    span: Span,
}

/// The products that exist before a step, with their makers.
type Made = BTreeMap<Product, Vec<Maker>>;

/// Walks the steps in the order in which they run.
pub(crate) struct Flow<'p, 'd> {
    pipeline: &'p Pipeline,
    /// The steps that are left out of this build, with the reasons.
    left_out: &'p HashMap<StepId, String>,
    problems: &'d mut Vec<Diagnostic>,
    /// All makers of the pipeline.
    all: Made,
    /// The references to pushed images in steps.
    of_steps: HashMap<StepId, Vec<&'p Use>>,
    /// The references to pushed images in images, by position.
    of_images: HashMap<usize, Vec<&'p Use>>,
}

/// The phase of a step and the `when` that holds for it.
#[derive(Clone, Copy)]
struct Position {
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
                Self::makes(step, Position { phase: phase.name, when: When::Success }, &mut all);
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
            let position = Position { phase: phase.name, when: step.when.unwrap_or(phase.when) };
            self.step(step, position, made);
        }
        for step in &phase.finally {
            let position = Position { phase: phase.name, when: step.when.unwrap_or(When::Always) };
            self.step(step, position, made);
        }
    }

    fn step(&mut self, step: &Step, position: Position, made: &mut Made) {
        // The steps of a group run in parallel, so none can use what another one makes.
        let steps: Vec<(&Step, Position)> = step
            .tree()
            .into_iter()
            .filter(|inner| !self.left_out.contains_key(&inner.id))
            .map(|inner| (inner, Position { when: inner.when.unwrap_or(position.when), ..position }))
            .collect();
        for (inner, position) in &steps {
            for (product, span) in self.needs(inner) {
                self.need(inner, &product, span, *position, made);
            }
        }
        for (inner, position) in steps {
            Self::makes(inner, position, made);
        }
    }

    fn makes(step: &Step, position: Position, made: &mut Made) {
        let products: Vec<(Product, Span)> = match &step.action {
            Action::Build(images) => {
                // An image that is rebuilt must be pushed again.
                images.iter().map(|name| (Product::Built(name.value.clone()), name.span)).collect()
            }
            Action::Push(images) => {
                images.iter().map(|name| (Product::Pushed(name.value.clone()), name.span)).collect()
            }
            Action::TaskDefinition(definition) if definition.registers() => {
                vec![(Product::Registered, step.span)]
            }
            _ => Vec::new(),
        };
        for (product, span) in products {
            let maker = Maker { step: step.id, when: position.when, phase: position.phase, span };
            made.entry(product).or_default().push(maker);
        }
    }

    /// The products that a step needs, with the places that name them.
    fn needs(&self, step: &Step) -> Vec<(Product, Span)> {
        let built = |name: &Name| (Product::Built(name.value.clone()), name.span);
        let pushed = |name: &Name| (Product::Pushed(name.value.clone()), name.span);
        let mut needs: Vec<(Product, Span)> = match &step.action {
            Action::Push(images) => images.iter().map(built).collect(),
            Action::Test(test) => vec![built(&test.image)],
            Action::ImageDefinitions(_) | Action::TaskDefinition(_) => {
                step.action.images().into_iter().map(pushed).collect()
            }
            Action::Deploy(deploy) if deploy.task_definition.is_none() => {
                vec![(Product::Registered, step.span)]
            }
            Action::RunTask(task) if task.task_definition.is_none() => vec![(Product::Registered, step.span)],
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
                needs.push((Product::Pushed(image.to_owned()), used.span));
            }
        }
        // Undefined images have been reported.
        needs.retain(|(product, _)| match product {
            Product::Built(image) | Product::Pushed(image) => self.pipeline.images.contains_key(image),
            Product::Registered => true,
        });
        needs
    }

    fn need(&mut self, step: &Step, product: &Product, span: Span, position: Position, made: &Made) {
        let makers = made.get(product).map(Vec::as_slice).unwrap_or_default();
        // After a failure an earlier step may have run or not. Only the run shows it.
        let reached = |maker: &Maker| match (maker.when, position.when) {
            (When::Always, _) | (When::Success, When::Success | When::Failure) => true,
            (When::Failure, When::Failure) => true,
            (When::Success, When::Always) | (When::Failure, When::Success | When::Always) => false,
        };
        if makers.iter().any(reached) {
            return;
        }
        let problem = match (makers.last(), self.all.get(product).and_then(|all| all.first())) {
            (Some(maker), _) => skipped(product, span, position, *maker),
            (None, Some(other)) if self.left_out.contains_key(&other.step) => {
                let reason = &self.left_out[&other.step];
                Diagnostic::new(
                    format!(
                        "{} by a step that is left out of this build, but this step is not",
                        product.made()
                    ),
                    span,
                )
                .related(other.span, reason.as_str())
                .help("use the same `only` and `except` for both")
            }
            (None, Some(later)) => {
                let (_, help) = product.missing();
                Diagnostic::new(format!("{} only later, or at the same time", product.made()), span)
                    .related(later.span, "here")
                    .help(help)
            }
            (None, None) => {
                let (message, help) = product.missing();
                Diagnostic::new(message, span).help(deployed_again(step).unwrap_or(help))
            }
        };
        self.problems.push(problem);
    }
}

/// The help for a forced deployment without a task definition: it is meant to deploy again what the service runs.
fn deployed_again(step: &Step) -> Option<String> {
    let Action::Deploy(deploy) = &step.action else { return None };
    let service = deploy.services.first().filter(|_| deploy.force)?;
    let quoted = |template: &Template| {
        let text = template.written();
        let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if is_plain { text } else { format!("\"{text}\"") }
    };
    let (cluster, name) = (quoted(&deploy.cluster), quoted(service));
    Some(format!(
        "to deploy again what the service runs, put `task-definition: {{ service: {{ cluster: {cluster}, name: {name} }} }}` before this step"
    ))
}

/// The step may run although the maker was skipped.
fn skipped(product: &Product, span: Span, position: Position, maker: Maker) -> Diagnostic {
    let made = product.made();
    let message = match (position.when, maker.when) {
        (When::Success, _) => format!("{made} only after a failure, when this step is skipped"),
        (_, When::Failure) => format!("{made} only after a failure, but this step also runs without one"),
        _ => {
            let before = if maker.phase == position.phase {
                "a step".to_owned()
            } else {
                format!("the phase `{}`", maker.phase)
            };
            format!(
                "this step also runs after a failure, but {made} in {before}, which may have failed or been skipped"
            )
        }
    };
    Diagnostic::new(message, span).related(maker.span, "here").help("use the same `when` for both")
}
