//! Deployments: verification, the rollout of a revision to services, rollback, and the work that follows.

mod after;
mod apply;
mod controller;
mod definition_file;
mod failed_tasks;
mod follow;
mod log;
mod outcome;
mod pace;
mod plan;
mod registration;
pub(crate) mod results;
mod revisions;
mod rollback;
mod schedules;
mod snapshot;
mod status;
mod verify;

use crate::aws::Aws;
use crate::connections::{Access, Connections};
use crate::ecs::service::Service;
use crate::event::Events;
use crate::language::pipeline::model::OnFailure;
pub(crate) use after::{AfterDeploy, FollowUp};
pub(crate) use apply::Applied;
pub(crate) use controller::CodeDeployGroup;
pub(crate) use definition_file::read_definition;
pub(crate) use outcome::{Outcome, ServiceReport, failure_of};
pub(crate) use plan::{DefinitionSource, Plan, PlannedService};
pub(crate) use registration::Registered;
pub(crate) use snapshot::{definition_of, deployable};
pub(crate) use status::{PastDeployment, RunningContainer, ServiceStatus};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a deployment may take by default, in addition to the time in which the service shifts traffic.
pub(crate) const DEFAULT_WAIT: Duration = Duration::from_mins(15);

/// Connections of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct ServiceSet {
    pub(crate) cluster: String,
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct DeployOptions {
    /// How long the deployment may take, and a rollback after it. `None` means [`DEFAULT_WAIT`] and the time
    /// for shifting traffic.
    pub(crate) wait: Option<Duration>,
    /// Pauses by lifecycle hooks count against `wait`.
    pub(crate) wait_includes_pauses: bool,
    pub(crate) on_failure: OnFailure,
    /// Register and deploy even if nothing differs.
    pub(crate) force: bool,
    pub(crate) after: AfterDeploy,
}

/// The deployment of one revision.
#[derive(Debug, Clone)]
pub(crate) struct DeployRequest {
    pub(crate) target: ServiceSet,
    /// An ARN.
    pub(crate) revision: String,
    pub(crate) options: DeployOptions,
    /// Deploys the service with `CodeDeploy` instead of ECS itself.
    pub(crate) code_deploy: Option<CodeDeployGroup>,
    /// The revision and the load balancers of the services were verified already.
    pub(crate) verified: bool,
}

impl DeployRequest {
    /// How long the deployment of a service may take.
    fn wait_for(&self, service: &Service) -> Duration {
        self.options.wait.unwrap_or(DEFAULT_WAIT + service.shifting)
    }
}

/// The connections of a deployment.
pub(crate) struct Deployer<'a> {
    pub(crate) aws: &'a Aws,
    pub(crate) connections: &'a Connections,
    pub(crate) access: Access,
    pub(crate) events: &'a Events,
    /// Is cancelled when the run is stopped.
    pub(crate) stop: &'a CancellationToken,
    /// A fixed interval between polls.
    pub(crate) poll: Option<Duration>,
}

/// Returns `FAMILY:N` of an ARN.
pub(crate) fn short(arn: &str) -> String {
    crate::ecs::revisions::short(arn).to_owned()
}
