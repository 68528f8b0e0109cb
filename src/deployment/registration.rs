//! Registers revisions of task definitions. A revision with the same content is reused, and none is
//! registered twice.

use super::pace::LostResponseRetry;
use super::{Deployer, results};
use crate::aws::AwsError;
use crate::ecs::diff::compare;
use crate::ecs::revisions::Revision;
use crate::ecs::task_definition::Request;
use crate::exit::{Failure, chain};
use serde_json::Value;

/// A revision to deploy.
pub(crate) struct Registration {
    /// An ARN.
    pub(crate) revision: String,
    /// It was registered just now, after verification.
    pub(crate) is_new: bool,
    /// The change of the task definition, as a unified diff.
    pub(crate) difference: Option<String>,
}

impl Registration {
    pub(crate) fn existing(revision: &str) -> Self {
        Self { revision: revision.to_owned(), is_new: false, difference: None }
    }
}

impl Deployer<'_> {
    /// Registers a revision, unless `base` or the family's latest revision has the same content and `force`
    /// is not set. `base` is the revision that the request was made from.
    pub(crate) async fn register(
        &self,
        base: Option<Registered>,
        request: &Request,
        force: bool,
    ) -> Result<Registration, Failure> {
        self.register_after(async { Ok(()) }, base, request, force).await
    }

    /// The same, but if a revision is to be registered and `check` fails, it is not.
    pub(crate) async fn register_after(
        &self,
        check: impl Future<Output = Result<(), Failure>>,
        base: Option<Registered>,
        request: &Request,
        force: bool,
    ) -> Result<Registration, Failure> {
        let latest = self.latest(request).await?;
        if let Some(same) = Registered::same_content(request, [&base, &latest]).filter(|_| !force) {
            results::unchanged(self.events, &same.revision).await;
            return Ok(Registration::existing(&same.revision.arn));
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
        check.await?;
        let newest = latest.map_or(0, |latest| latest.revision.number());
        let revision = self.send(request, newest).await?;
        results::registered(self.events, &revision).await;
        Ok(Registration { revision: revision.arn, is_new: true, difference })
    }

    /// Returns the family's latest revision, or `None` if there is none or it cannot be read.
    pub(crate) async fn latest(&self, request: &Request) -> Result<Option<Registered>, Failure> {
        let found = match self.aws.ecs_task_definition(request.family()).await {
            Ok(document) => Ok(Registered::read(&document)),
            other => other.map(|_| None),
        };
        let made = self.aws.made_revision(request.family());
        match found {
            // ECS may show what this run has registered only after a moment.
            Ok(_) | Err(AwsError::NotFound { .. })
                if made.as_ref().is_some_and(|made| {
                    let number = |found: &Registered| found.revision.number();
                    made.number() > found.as_ref().ok().and_then(Option::as_ref).map_or(0, number)
                }) =>
            {
                let arn = made.map(|made| made.arn).unwrap_or_default();
                Ok(Registered::read(&self.aws.ecs_task_definition(&arn).await?))
            }
            Ok(found) => Ok(found),
            Err(AwsError::NotFound { .. }) => Ok(None),
            Err(error @ AwsError::Denied { .. }) => {
                let text = format!("could not look for a revision with the same content: {}", chain(&error));
                self.events.warn(text).await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Registers a revision, with retries. Before a retry the revision is looked up, so that a lost response
    /// does not lead to a second one. If that fails, there is no retry.
    async fn send(&self, request: &Request, newest: u64) -> Result<Revision, Failure> {
        let body = request.clone().into_json();
        let mut retry = LostResponseRetry::new(self);
        loop {
            let error = match self.aws.ecs_register(&body).await {
                Ok(revision) => return Ok(revision),
                Err(error) => error,
            };
            if !error.is_transient() {
                return Err(error.into());
            }
            retry.report(self.events, &error).await;
            retry.back_off().await?;
            match self.registered_since(request, newest).await {
                Ok(Some(revision)) => return Ok(revision),
                Ok(None) if retry.next() => {}
                Ok(None) => return Err(error.into()),
                Err(_) => {
                    let help = "it may have been registered anyway: ECS could not be asked";
                    return Err(Failure::from(error).help(help));
                }
            }
        }
    }

    /// Returns a revision with the same content that was registered after `newest`, even if it is not the
    /// latest one.
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
                self.aws.made(&found.revision.arn);
                return Ok(Some(found.revision));
            }
            if found.revision.number() == newest + 1 {
                return Ok(None);
            }
            name = format!("{}:{}", request.family(), found.revision.number() - 1);
        }
    }
}

/// A registered revision.
pub(crate) struct Registered {
    pub(crate) revision: Revision,
    pub(crate) request: Request,
}

impl Registered {
    /// Returns the first revision with the content of a request.
    pub(crate) fn same_content<'k>(
        request: &Request,
        known: impl IntoIterator<Item = &'k Option<Self>>,
    ) -> Option<&'k Self> {
        known.into_iter().flatten().find(|known| compare(&known.request, request).is_none())
    }

    /// Reads a response of `DescribeTaskDefinition`. Returns `None` if the revision is no longer active.
    pub(crate) fn read(document: &Value) -> Option<Self> {
        let field = |name: &str| document.get("taskDefinition")?.get(name)?.as_str();
        let arn = field("taskDefinitionArn")?.to_owned();
        let request = Request::from_document(document.clone()).ok()?;
        (field("status") == Some("ACTIVE")).then_some(Self { revision: Revision { arn }, request })
    }
}
