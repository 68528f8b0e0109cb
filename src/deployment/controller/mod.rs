//! The services that roll out deployments: Amazon ECS itself, and AWS `CodeDeploy`.

mod code_deploy;
mod ecs;

use crate::aws::AwsError;
use crate::deployment::failed_tasks::TasksOf;
use crate::deployment::outcome::Outcome;
use crate::deployment::rollback::{AfterFailure, RollbackStart};
use crate::ecs::service::Service;
use crate::ecs::verdict::Assessment;
use crate::exit::Failure;
pub(crate) use code_deploy::{CodeDeploy, CodeDeployGroup};
pub(crate) use ecs::Ecs;

/// One poll.
pub(crate) struct Observation {
    /// The service, if it could be read and still matters.
    pub(crate) service: Option<Service>,
    /// How to continue the deployment, if lifecycle hooks pause it.
    pub(crate) continuing: Option<String>,
    pub(crate) assessment: Assessment,
}

/// Rolls one revision out to one service.
pub(crate) trait Controller {
    /// Its name in messages.
    const NAME: &'static str;

    /// Starts the deployment. Returns false if the service runs the revision already.
    async fn start(&mut self) -> Result<bool, Failure>;

    /// Polls once.
    async fn observe(&mut self) -> Result<Observation, AwsError>;

    /// Returns the service's events that [`Self::observe`] has not reported yet.
    fn unseen_events(&self, service: &Service) -> Vec<String>;

    /// The tasks of the deployment, or `None` while it rolls back.
    fn tasks(&self) -> Option<TasksOf<'_>>;

    /// The revision that is being deployed, as an ARN. During a rollback this may be the previous one.
    fn revision(&self) -> &str;

    /// The ARN or id of the deployment.
    fn id(&self) -> Option<String>;

    /// Names the deployment in messages.
    fn describe(&self) -> String;

    /// Whether it is too late, or too early, to ask for a rollback.
    fn can_roll_back(&self) -> bool;

    /// Starts a rollback and does not wait for it.
    async fn start_rollback(&mut self) -> RollbackStart;

    /// Decides what follows a deployment that has failed or was stopped. `requested` says that runner asked
    /// for the rollback. More may become known about the reason.
    async fn after_failure(&mut self, requested: bool, reason: &mut Option<String>) -> AfterFailure;

    /// What to do about an outcome that leaves the service in an unknown state.
    fn advice(&self, outcome: Outcome) -> Option<String>;
}
