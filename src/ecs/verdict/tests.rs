use super::*;
use crate::ecs::service::Event;

/// A deployment of the service's own list: id, status, revision and rollout.
fn own(id: &str, status: &str, revision: &str, rollout: &str) -> Deployment {
    let [id, status, task_definition] = [id, status, revision].map(ToOwned::to_owned);
    Deployment { id, status, task_definition, rollout: Some(rollout.to_owned()), ..Deployment::default() }
}

fn service(deployments: Vec<Deployment>) -> Service {
    let primary = deployments.iter().find(|one| one.status == "PRIMARY");
    let task_definition = primary.map_or("new", |primary| &primary.task_definition).to_owned();
    Service { status: "ACTIVE".to_owned(), task_definition, deployments, ..Service::default() }
}

fn before() -> Service {
    service(vec![own("old", "PRIMARY", "old", "COMPLETED")])
}

fn judge(id: Option<&str>) -> EcsJudge {
    let mut judge = EcsJudge::new(&before(), "new");
    judge.started(id.map(ToOwned::to_owned));
    judge
}

/// A poll without service deployments.
fn alone(service: &Service) -> EcsPoll<'_> {
    EcsPoll { service, deployment: None, is_current: true }
}

fn verdict(judge: &mut EcsJudge, deployments: Vec<Deployment>) -> Verdict {
    judge.observe(alone(&service(deployments))).verdict
}

fn rolls_back() -> Event {
    Event { id: "1".to_owned(), message: "(service web) rolling back to deployment old.".to_owned() }
}

#[test]
fn one_poll_of_a_service_alone() {
    let ours = |status: &str, rollout: &str| own("ours", status, "new", rollout);
    let old = |status: &str, rollout: &str| own("old", status, "old", rollout);
    let other = |rollout: &str| own("other", "PRIMARY", "old", rollout);
    let rolled_back = || Verdict::Ended(Ending::RolledBack(None));
    for (deployments, breaker_rolls_back, announced, expected) in [
        (vec![ours("PRIMARY", "IN_PROGRESS"), old("ACTIVE", "COMPLETED")], true, false, Verdict::InProgress),
        (vec![ours("PRIMARY", "COMPLETED")], true, false, Verdict::Ended(Ending::Succeeded)),
        (vec![ours("PRIMARY", "FAILED")], true, false, Verdict::RollingBack),
        (vec![ours("PRIMARY", "FAILED")], false, false, Verdict::Ended(Ending::Failed(None))),
        (vec![old("PRIMARY", "IN_PROGRESS"), ours("ACTIVE", "FAILED")], true, false, Verdict::RollingBack),
        (vec![old("PRIMARY", "COMPLETED"), ours("ACTIVE", "FAILED")], true, false, rolled_back()),
        // The failed deployment is no longer listed: only the announcement is left.
        (vec![old("PRIMARY", "COMPLETED")], true, true, rolled_back()),
        // One poll may be stale.
        (vec![other("COMPLETED")], true, false, Verdict::Unclear),
        (vec![other("IN_PROGRESS"), ours("ACTIVE", "IN_PROGRESS")], true, false, Verdict::Unclear),
        // The service may still be shown as it was before.
        (vec![old("PRIMARY", "COMPLETED")], true, false, Verdict::Unclear),
        (vec![old("PRIMARY", "FAILED")], true, true, Verdict::Ended(Ending::RollbackFailed(None))),
        (vec![], true, false, Verdict::Unclear),
    ] {
        let case = format!("{deployments:?} {breaker_rolls_back} {announced}");
        let mut service = Service { breaker_rolls_back, ..service(deployments) };
        service.events.extend(announced.then(rolls_back));
        assert_eq!(judge(Some("ours")).observe(alone(&service)).verdict, expected, "{case}");
    }
}

#[test]
fn a_service_deployment_that_was_stopped_has_failed_or_was_superseded() {
    let judged = |primary: &str, state: DeploymentState| {
        let service = service(vec![own("any", "PRIMARY", primary, "IN_PROGRESS")]);
        let deployment =
            ServiceDeployment { state, reason: Some("why".to_owned()), ..ServiceDeployment::default() };
        let poll = EcsPoll { service: &service, deployment: Some(&deployment), is_current: true };
        let mut judge = judge(None);
        let first = judge.observe(poll).verdict;
        // One poll may be stale.
        if first == Verdict::Unclear { judge.observe(poll).verdict } else { first }
    };
    let why = || Some("why".to_owned());
    assert_eq!(judged("new", DeploymentState::Stopped), Verdict::Ended(Ending::Failed(why())));
    assert_eq!(
        judged("other", DeploymentState::Stopped),
        Verdict::Ended(Ending::Superseded("other".to_owned()))
    );
    assert_eq!(judged("old", DeploymentState::RollbackInProgress), Verdict::RollingBack);
    assert_eq!(judged("old", DeploymentState::RollbackSuccessful), Verdict::Ended(Ending::RolledBack(why())));
    assert_eq!(judged("new", DeploymentState::Other("NEW_WORD".to_owned())), Verdict::InProgress);
    let inactive = Service { status: "INACTIVE".to_owned(), ..Service::default() };
    let mut judge = judge(None);
    let verdicts = [(); 3].map(|()| judge.observe(alone(&inactive)).verdict);
    assert_eq!(verdicts, [Verdict::Unclear, Verdict::Unclear, Verdict::Ended(Ending::Deleted)]);
}

#[test]
fn a_deployment_is_untraceable_after_three_polls_that_do_not_list_it() {
    let mut judge = judge(None);
    for _ in 0..2 {
        assert_eq!(verdict(&mut judge, vec![]), Verdict::Unclear);
    }
    // It appears: the count starts again.
    let ours = own("ours", "PRIMARY", "new", "IN_PROGRESS");
    assert_eq!(verdict(&mut judge, vec![ours]), Verdict::InProgress);
    for _ in 0..2 {
        assert_eq!(verdict(&mut judge, vec![]), Verdict::Unclear);
    }
    assert_eq!(verdict(&mut judge, vec![]), Verdict::Ended(Ending::Untraceable));
}

#[test]
fn a_stale_response_does_not_supersede_until_it_stays() {
    let mut judge = judge(Some("ours"));
    let stale = || vec![own("old", "PRIMARY", "old", "COMPLETED")];
    for _ in 0..4 {
        assert_eq!(verdict(&mut judge, stale()), Verdict::Unclear);
    }
    // Findings, D17: the service runs the previous revision again, so ECS has rolled back.
    assert_eq!(verdict(&mut judge, stale()), Verdict::Ended(Ending::RolledBack(None)));
    // A deployment that is new since counts the second time.
    judge.clear_doubts();
    let other = || vec![own("other", "PRIMARY", "other", "IN_PROGRESS")];
    assert_eq!(verdict(&mut judge, other()), Verdict::Unclear);
    assert_eq!(verdict(&mut judge, other()), Verdict::Ended(Ending::Superseded("other".to_owned())));
}

/// Findings, D17.
#[test]
fn without_service_deployments_the_previous_revision_is_a_rollback() {
    let back = |rollout: &str| vec![own("back", "PRIMARY", "old", rollout)];
    let mut judge = judge(Some("ours"));
    let failing = Deployment { failed: 1, ..own("ours", "PRIMARY", "new", "IN_PROGRESS") };
    assert_eq!(verdict(&mut judge, vec![failing]), Verdict::InProgress);
    assert_eq!(verdict(&mut judge, back("IN_PROGRESS")), Verdict::Unclear);
    assert_eq!(verdict(&mut judge, back("IN_PROGRESS")), Verdict::RollingBack);
    assert_eq!(verdict(&mut judge, back("COMPLETED")), Verdict::Ended(Ending::RolledBack(None)));
    judge.clear_doubts();
    verdict(&mut judge, back("FAILED"));
    assert_eq!(verdict(&mut judge, back("FAILED")), Verdict::Ended(Ending::RollbackFailed(None)));
    // ECS has neither a reason to roll back nor announces that it does: someone else has deployed the revision again.
    let mut other = self::judge(Some("ours"));
    verdict(&mut other, vec![own("ours", "PRIMARY", "new", "IN_PROGRESS")]);
    verdict(&mut other, back("IN_PROGRESS"));
    let superseded = || Verdict::Ended(Ending::Superseded("old".to_owned()));
    assert_eq!(verdict(&mut other, back("IN_PROGRESS")), superseded());
    // The revision before is not the one that ECS would roll back to.
    judge.previous = Some("older".to_owned());
    judge.clear_doubts();
    verdict(&mut judge, back("COMPLETED"));
    assert_eq!(verdict(&mut judge, back("COMPLETED")), superseded());
}

/// Findings, D9.
#[test]
fn a_service_is_deleted_after_three_polls_in_a_row() {
    let mut judge = judge(Some("ours"));
    assert_eq!((judge.missing(), judge.missing()), (Verdict::Unclear, Verdict::Unclear));
    assert_eq!(verdict(&mut judge, vec![own("ours", "PRIMARY", "new", "IN_PROGRESS")]), Verdict::InProgress);
    assert_eq!((judge.missing(), judge.missing()), (Verdict::Unclear, Verdict::Unclear));
    assert_eq!(judge.missing(), Verdict::Ended(Ending::Deleted));
}

#[test]
fn a_running_service_deployment_is_superseded_by_the_second_current_poll() {
    let mut judge = judge(Some("ours"));
    let service = service(vec![own("other", "PRIMARY", "other", "IN_PROGRESS")]);
    let deployment = ServiceDeployment { state: DeploymentState::InProgress, ..ServiceDeployment::default() };
    let poll = |is_current| EcsPoll { service: &service, deployment: Some(&deployment), is_current };
    assert_eq!(judge.observe(poll(true)).verdict, Verdict::InProgress);
    // The service deployment is older than the service: that proves nothing.
    assert_eq!(judge.observe(poll(false)).verdict, Verdict::InProgress);
    assert_eq!(judge.observe(poll(true)).verdict, Verdict::InProgress);
    assert_eq!(judge.observe(poll(true)).verdict, Verdict::Ended(Ending::Superseded("other".to_owned())));
}

#[test]
fn an_earlier_deployment_of_the_same_revision_does_not_pass_for_ours() {
    let mut judge = EcsJudge::new(&service(vec![own("first", "PRIMARY", "new", "COMPLETED")]), "new");
    let listed = || vec![own("first", "PRIMARY", "new", "COMPLETED")];
    assert_eq!(verdict(&mut judge, listed()), Verdict::Unclear);
    judge.started(Some("second".to_owned()));
    let second = own("second", "PRIMARY", "new", "COMPLETED");
    assert_eq!(verdict(&mut judge, vec![second]), Verdict::Ended(Ending::Succeeded));
}

#[test]
fn an_announced_rollback_is_remembered_until_another_revision_is_judged() {
    let mut judge = judge(Some("ours"));
    let mut announcing = service(vec![own("ours", "PRIMARY", "new", "IN_PROGRESS")]);
    announcing.events.push(rolls_back());
    let first = judge.observe(alone(&announcing));
    assert_eq!((first.verdict, first.messages.len()), (Verdict::InProgress, 1));
    let back = || vec![own("old", "PRIMARY", "old", "IN_PROGRESS")];
    assert_eq!(verdict(&mut judge, back()), Verdict::RollingBack);
    assert_eq!(judge.switch_to("newer".to_owned()), "new");
    assert_eq!(verdict(&mut judge, back()), Verdict::Unclear);
}

#[test]
fn events_and_states_are_reported_once() {
    let mut judge = judge(Some("ours"));
    let mut polled = service(vec![own("ours", "PRIMARY", "new", "IN_PROGRESS")]);
    let event = |id: &str| Event { id: id.to_owned(), message: format!("event {id} ") };
    polled.events = vec![event("2"), event("1")];
    let first = judge.observe(alone(&polled));
    assert_eq!(first.messages, ["event 1", "event 2"]);
    assert_eq!(first.state.unwrap().text, "in progress · 0 of 0 running");
    polled.events.insert(0, event("3"));
    assert_eq!(judge.seen.unseen(&polled), ["event 3"]);
    let second = judge.observe(alone(&polled));
    assert_eq!((second.messages, second.state), (vec!["event 3".to_owned()], None));
}

#[test]
fn code_deploy_may_not_know_a_new_deployment_at_once() {
    let mut judge = CodeDeployJudge::new(&before());
    assert!((0..5).all(|_| judge.missing()));
    assert!(!judge.missing());
    judge.clear_doubts();
    let mut deployment = code_deploy::Deployment::default();
    let first = judge.observe(&deployment, None, None);
    assert_eq!((first.verdict, first.state.unwrap().text), (Verdict::InProgress, "created".to_owned()));
    // Findings, D9: once known it may vanish for a moment.
    assert!(judge.missing());
    deployment.keeps_earlier = true;
    assert_eq!(judge.observe(&deployment, None, None).verdict, Verdict::TrafficMoved);
    deployment.status = Status::Stopped;
    assert_eq!(judge.observe(&deployment, None, None).verdict, Verdict::Ended(Ending::Failed(None)));
}

#[test]
fn a_stage_is_reported_once_for_each_deployment() {
    let mut judge = CodeDeployJudge::new(&before());
    let event = LifecycleEvent { name: "Install".to_owned(), status: "Succeeded".to_owned(), message: None };
    let progress = Progress { events: vec![event], sets: Vec::new() };
    let stages = |judge: &mut CodeDeployJudge| {
        judge.observe(&code_deploy::Deployment::default(), Some(&progress), None).stages
    };
    assert_eq!(stages(&mut judge), ["Install succeeded"]);
    assert!(stages(&mut judge).is_empty());
    judge.switch();
    assert_eq!(stages(&mut judge), ["Install succeeded"]);
}
