//! Registering revisions of task definitions: one that means the same is taken as it is, and none is registered twice.

use super::Deployer;
use super::watch::Attempts;
use crate::aws::AwsError;
use crate::document;
use crate::ecs::diff::compare;
use crate::ecs::revisions::Revision;
use crate::ecs::task_definition::Request;
use crate::event::{self, Kind};
use crate::exit::{Failure, chain};
use serde_json::Value;
use std::path::Path;

/// Reads a file with a task definition.
pub(crate) fn read_definition(path: &Path) -> Result<Value, Failure> {
    let unreadable = |reason: String| {
        Failure::usage(format!("the task definition {} cannot be read: {reason}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    document::parse(&text).map_err(unreadable)
}

/// A revision to deploy.
pub(crate) struct Registration {
    pub(crate) revision: String,
    /// It was registered just now, and what it names was looked for.
    pub(crate) is_new: bool,
    /// What it changes, as a unified diff.
    pub(crate) difference: Option<String>,
}

impl Registration {
    /// One that is there already.
    pub(crate) fn of(revision: &str) -> Self {
        Self { revision: revision.to_owned(), is_new: false, difference: None }
    }
}

impl Deployer<'_> {
    /// Gives a revision that means what the request says: one that is there already is taken, unless `force` is said. `base` is what the
    /// request was made from.
    pub(crate) async fn register(
        &self,
        base: Option<Registered>,
        request: &Request,
        force: bool,
    ) -> Result<Registration, Failure> {
        let latest = self.latest(request).await?;
        if let Some(same) = Registered::meaning(request, [&base, &latest]).filter(|_| !force) {
            self.registered_event(&same.revision, true).await;
            return Ok(Registration::of(&same.revision.arn));
        }
        let known = base.as_ref().or(latest.as_ref());
        let difference = known.and_then(|known| compare(&known.request, request));
        if let (Some(known), Some(difference)) = (known, &difference) {
            self.events.note(format!("changes to {}:", known.revision.short())).await;
            for line in difference.lines().skip(2) {
                self.events.note(line).await;
            }
        }
        self.verify_definition(request.fields()).await?;
        let newest = latest.map_or(0, |latest| latest.revision.number());
        let revision = self.send(request, newest).await?;
        self.registered_event(&revision, false).await;
        Ok(Registration { revision: revision.arn, is_new: true, difference })
    }

    async fn registered_event(&self, revision: &Revision, unchanged: bool) {
        let arn = self.events.shown(&revision.arn);
        let revision = self.events.shown(revision.short());
        self.events.send(Kind::DefinitionRegistered(event::Registered { revision, arn, unchanged })).await;
    }

    /// The family's latest revision, where there is one that may be read.
    pub(crate) async fn latest(&self, request: &Request) -> Result<Option<Registered>, Failure> {
        match self.aws.ecs_task_definition(request.family()).await {
            Ok(document) => Ok(Registered::read(&document)),
            Err(AwsError::NotFound { .. }) => Ok(None),
            Err(error @ AwsError::Denied { .. }) => {
                let cause = chain(&error);
                self.events
                    .warn(format!("whether this revision is there already cannot be told: {cause}"))
                    .await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a registration until ECS has it. An answer that was lost is looked for before it is sent once more, so that there is one
    /// revision; where ECS cannot be asked for that, it is not sent once more.
    async fn send(&self, request: &Request, newest: u64) -> Result<Revision, Failure> {
        let body = request.clone().into_json();
        let mut attempts = Attempts::begin(self);
        loop {
            let error = match self.aws.ecs_register(&body).await {
                Ok(revision) => return Ok(revision),
                Err(error) => error,
            };
            if !error.is_transient() {
                return Err(error.into());
            }
            self.events.warn(format!("tried again, because {}", chain(&error))).await;
            attempts.pause().await?;
            match self.registered_since(request, newest).await {
                Ok(Some(revision)) => return Ok(revision),
                Ok(None) if attempts.next() => {}
                Ok(None) => return Err(error.into()),
                Err(_) => {
                    let help =
                        "it may have been registered all the same; ECS could not be asked whether it was";
                    return Err(Failure::from(error).help(help));
                }
            }
        }
    }

    /// A revision that was registered after the `newest` one and means the same; others may have come after it.
    async fn registered_since(&self, request: &Request, newest: u64) -> Result<Option<Revision>, AwsError> {
        let mut name = request.family().to_owned();
        loop {
            let document = match self.aws.ecs_task_definition(&name).await {
                Ok(document) => document,
                Err(AwsError::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let found = Registered::read(&document).filter(|found| found.revision.number() > newest);
            let Some(found) = found else { return Ok(None) };
            if compare(&found.request, request).is_none() {
                return Ok(Some(found.revision));
            }
            if found.revision.number() == newest + 1 {
                return Ok(None);
            }
            name = format!("{}:{}", request.family(), found.revision.number() - 1);
        }
    }
}

/// A revision that ECS has.
pub(crate) struct Registered {
    pub(crate) revision: Revision,
    pub(crate) request: Request,
}

impl Registered {
    /// The first of some that means what a request says.
    pub(crate) fn meaning<'k>(
        request: &Request,
        known: impl IntoIterator<Item = &'k Option<Self>>,
    ) -> Option<&'k Self> {
        known.into_iter().flatten().find(|known| compare(&known.request, request).is_none())
    }

    /// Reads an answer of `DescribeTaskDefinition`; nothing where the revision cannot be used any more.
    pub(crate) fn read(document: &Value) -> Option<Self> {
        let field = |name: &str| document.get("taskDefinition")?.get(name)?.as_str();
        let arn = field("taskDefinitionArn")?.to_owned();
        let request = Request::from_document(document.clone()).ok()?;
        (field("status") == Some("ACTIVE")).then_some(Self { revision: Revision { arn }, request })
    }
}
