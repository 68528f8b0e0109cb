//! Fields whose value others can read, so that a secret must not get into them.

use crate::language::diagnostic::Diagnostic;
use crate::language::source::Span;

/// Where others can read the value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// `args` of an image.
    BuildArgument,
    /// `labels` of an image.
    Label,
    /// `tags` of an image.
    Tag,
    /// `repository` of an image.
    Repository,
    /// A field of a task definition.
    TaskDefinition,
    /// `command` and `environment` of `run-task`.
    Task,
    /// `command` and `entrypoint` of a container on this machine.
    ContainerCommand,
}

impl Exposure {
    /// Whether a secret is refused there. Otherwise it causes a warning.
    pub(crate) fn refuses(self) -> bool {
        matches!(self, Self::BuildArgument | Self::Label | Self::Tag | Self::Repository)
    }

    /// The message about a secret in the field. `name` is the variable that holds it.
    pub(crate) fn diagnostic(self, name: &str, span: Span) -> Diagnostic {
        let place = match self {
            Self::BuildArgument => {
                let message = format!(
                    "the secret `{name}` is passed as a build argument, which stays in the image's history"
                );
                return Diagnostic::new(message, span).help(format!(
                    "write `secrets: [{name}]` for the image, and `RUN --mount=type=secret,id={name}` in the Dockerfile"
                ));
            }
            Self::Label => "a label of the image",
            Self::Tag => "a tag of the image",
            Self::Repository => "the address of the image",
            Self::TaskDefinition => "the task definition",
            Self::Task => "the description of the task",
            Self::ContainerCommand => "the command line of the container",
        };
        let help = match self {
            Self::TaskDefinition | Self::Task => {
                "let ECS inject it: `secrets: { NAME: ARN }` in the task definition".to_owned()
            }
            Self::ContainerCommand => format!("pass it as the variable `{name}`, which the command reads"),
            _ => "use a variable that is not a secret".to_owned(),
        };
        let problem =
            Diagnostic::new(format!("the secret `{name}` would be readable in {place}"), span).help(help);
        if self.refuses() { problem } else { problem.warning() }
    }
}
