//! What has become of a deployment, judged by what ECS tells at one moment.

use super::service::{Service, ServiceDeployment, State};

/// What ECS tells about a deployment at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight<'a> {
    pub(crate) service: &'a Service,
    /// The service deployment, read after the service; nothing where ECS does not tell about those.
    pub(crate) deployment: Option<&'a ServiceDeployment>,
    /// The deployment's id among the service's, where it is known.
    pub(crate) id: Option<&'a str>,
    /// The revision that it brings, as an ARN.
    pub(crate) revision: &'a str,
    /// ECS has been seen on its way back, or has said so.
    pub(crate) goes_back: bool,
}

/// What has become of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is under way.
    GoesOn,
    /// The service is to run the revision, and ECS lists no deployment that brings it.
    Unseen,
    /// ECS is on its way back.
    RollsBack,
    /// The service runs the revision.
    Succeeded,
    /// It has failed, and nobody has rolled it back.
    Failed(Option<String>),
    /// ECS has rolled it back.
    RolledBack(Option<String>),
    /// ECS has tried to.
    RollbackFailed(Option<String>),
    /// Another deployment, of this revision, has taken its place.
    Superseded(String),
    /// The service is not there any more.
    Gone,
}

/// Judges what is seen.
pub(crate) fn judge(sight: &Sight<'_>) -> Verdict {
    if sight.service.status != "ACTIVE" {
        return Verdict::Gone;
    }
    match sight.deployment {
        Some(deployment) => by_service_deployment(sight, deployment),
        None => by_service(sight),
    }
}

fn by_service_deployment(sight: &Sight<'_>, deployment: &ServiceDeployment) -> Verdict {
    let reason = || {
        let reasons = deployment.reasons();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    };
    match &deployment.state {
        State::Successful => Verdict::Succeeded,
        State::RollbackSuccessful => Verdict::RolledBack(reason()),
        State::RollbackFailed => Verdict::RollbackFailed(reason()),
        State::RollbackRequested | State::RollbackInProgress => Verdict::RollsBack,
        State::Stopped => match other(sight) {
            Some(by) => Verdict::Superseded(by),
            None => Verdict::Failed(reason()),
        },
        State::Pending | State::InProgress | State::StopRequested | State::Other(_) => Verdict::GoesOn,
    }
}

/// Whether ECS says with these words, of an event or a deployment, that it goes back.
pub(crate) fn tells_of_way_back(words: &str) -> bool {
    words.to_lowercase().contains("rolling back")
}

/// The revision that the service is to run, where that is another one.
fn other(sight: &Sight<'_>) -> Option<String> {
    let primary = sight.service.primary();
    let is_ours = |id: &str, revision: &str| sight.id.map_or(revision == sight.revision, |own| own == id);
    match primary {
        Some(primary) if !is_ours(&primary.id, &primary.task_definition) => {
            Some(primary.task_definition.clone())
        }
        Some(_) => None,
        None => Some(&sight.service.task_definition).filter(|other| *other != sight.revision).cloned(),
    }
}

/// Without service deployments there is only what the service lists of its own.
fn by_service(sight: &Sight<'_>) -> Verdict {
    let deployments = &sight.service.deployments;
    let own = deployments.iter().find(|deployment| match sight.id {
        Some(id) => deployment.id == id,
        None => deployment.task_definition == sight.revision,
    });
    let rollout = |wanted: &str| own.is_some_and(|own| own.rollout.as_deref() == Some(wanted));
    let reason = own.and_then(|own| own.reason.clone());
    let Some(primary) = sight.service.primary() else { return Verdict::Unseen };
    let is_primary = own.is_some_and(|own| own.id == primary.id);
    // ECS says so in the reason of the deployment that goes back.
    let goes_back = sight.goes_back || primary.reason.as_deref().is_some_and(tells_of_way_back);
    if is_primary {
        return match (rollout("COMPLETED"), rollout("FAILED")) {
            (true, _) => Verdict::Succeeded,
            (_, true) if sight.service.breaker_rolls_back => Verdict::RollsBack,
            (_, true) => Verdict::Failed(reason),
            _ => Verdict::GoesOn,
        };
    }
    if own.is_none() && sight.id.is_none() && sight.service.task_definition == sight.revision {
        return Verdict::Unseen;
    }
    if !(rollout("FAILED") || goes_back) {
        return Verdict::Superseded(primary.task_definition.clone());
    }
    match primary.rollout.as_deref() {
        Some("COMPLETED") => Verdict::RolledBack(reason.or_else(|| primary.reason.clone())),
        Some("FAILED") => Verdict::RollbackFailed(primary.reason.clone()),
        _ => Verdict::RollsBack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ecs::service::Deployment;

    /// A deployment of the service's own list: id, status, revision and rollout.
    fn own(id: &str, status: &str, revision: &str, rollout: &str) -> Deployment {
        let [id, status, task_definition] = [id, status, revision].map(ToOwned::to_owned);
        Deployment { id, status, task_definition, rollout: Some(rollout.to_owned()), ..Deployment::default() }
    }

    fn seen(deployments: Vec<Deployment>, breaker_rolls_back: bool, goes_back: bool) -> Verdict {
        let primary = deployments.iter().find(|one| one.status == "PRIMARY");
        let task_definition = primary.map_or("new", |primary| &primary.task_definition).to_owned();
        let status = "ACTIVE".to_owned();
        let service =
            Service { status, task_definition, deployments, breaker_rolls_back, ..Service::default() };
        judge(&Sight { service: &service, deployment: None, id: Some("ours"), revision: "new", goes_back })
    }

    #[test]
    fn a_service_alone_tells_as_much_as_it_can() {
        let ours = |status: &str, rollout: &str| own("ours", status, "new", rollout);
        let old = |status: &str, rollout: &str| own("old", status, "old", rollout);
        let superseded = || Verdict::Superseded("old".to_owned());
        for (deployments, breaker, goes_back, verdict) in [
            (vec![ours("PRIMARY", "IN_PROGRESS"), old("ACTIVE", "COMPLETED")], true, false, Verdict::GoesOn),
            (vec![ours("PRIMARY", "COMPLETED")], true, false, Verdict::Succeeded),
            (vec![ours("PRIMARY", "FAILED")], true, false, Verdict::RollsBack),
            (vec![ours("PRIMARY", "FAILED")], false, false, Verdict::Failed(None)),
            (vec![old("PRIMARY", "IN_PROGRESS"), ours("ACTIVE", "FAILED")], true, false, Verdict::RollsBack),
            (
                vec![old("PRIMARY", "COMPLETED"), ours("ACTIVE", "FAILED")],
                true,
                false,
                Verdict::RolledBack(None),
            ),
            // What failed is not listed any more: that ECS was on its way back has to be remembered.
            (vec![old("PRIMARY", "COMPLETED")], true, true, Verdict::RolledBack(None)),
            (vec![old("PRIMARY", "COMPLETED")], true, false, superseded()),
            (vec![old("PRIMARY", "IN_PROGRESS"), ours("ACTIVE", "IN_PROGRESS")], true, false, superseded()),
            (vec![old("PRIMARY", "FAILED")], true, true, Verdict::RollbackFailed(None)),
            (vec![], true, false, Verdict::Unseen),
        ] {
            let told = format!("{deployments:?} {breaker} {goes_back}");
            assert_eq!(seen(deployments, breaker, goes_back), verdict, "{told}");
        }
    }

    #[test]
    fn a_service_deployment_that_was_stopped_failed_or_was_superseded() {
        let judged = |primary: &str, state: State| {
            let deployments = vec![own("any", "PRIMARY", primary, "IN_PROGRESS")];
            let service = Service { status: "ACTIVE".to_owned(), deployments, ..Service::default() };
            let deployment =
                ServiceDeployment { state, reason: Some("why".to_owned()), ..ServiceDeployment::default() };
            let deployment = Some(&deployment);
            judge(&Sight { service: &service, deployment, id: None, revision: "new", goes_back: false })
        };
        assert_eq!(judged("new", State::Stopped), Verdict::Failed(Some("why".to_owned())));
        assert_eq!(judged("other", State::Stopped), Verdict::Superseded("other".to_owned()));
        assert_eq!(judged("old", State::RollbackInProgress), Verdict::RollsBack);
        assert_eq!(judged("old", State::RollbackSuccessful), Verdict::RolledBack(Some("why".to_owned())));
        assert_eq!(judged("new", State::Other("NEW_WORD".to_owned())), Verdict::GoesOn);
        let gone = Service { status: "INACTIVE".to_owned(), ..Service::default() };
        let sight = Sight { service: &gone, deployment: None, id: None, revision: "new", goes_back: false };
        assert_eq!(judge(&sight), Verdict::Gone);
    }
}
