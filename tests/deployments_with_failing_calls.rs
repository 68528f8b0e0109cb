//! Every scenario of tests/deployments.rs again, with a call that goes wrong.

use crate::deployments::{Case, End, cases, is_soak, play, problems, side_by_side};
use crate::ecs_api::{Fault, revision};
use crate::harness::revisions;

/// What goes wrong with a call.
type Kind = (&'static str, fn(&str) -> Fault);

const KINDS: [Kind; 5] = [
    ("throttled", Fault::throttled),
    ("server error", Fault::server_error),
    ("lost", Fault::lost),
    ("garbage", Fault::garbage),
    ("stale", Fault::stale),
];

/// A fault: a scenario, and the call that goes wrong.
struct Trouble<'a> {
    case: &'a Case,
    kind: Kind,
    action: String,
    call: usize,
}

/// Every fault at every call of every scenario; a seeded sample of them unless all are wanted.
fn troubles(cases: &[Case]) -> Vec<Trouble<'_>> {
    let calls = std::sync::Mutex::new(Vec::new());
    side_by_side(&cases.iter().enumerate().collect::<Vec<_>>(), |(at, case)| {
        let (_, ecs, _) = play(case, &[]);
        calls.lock().unwrap().push((*at, ecs.actions()));
        Vec::new()
    });
    let mut calls = calls.into_inner().unwrap();
    calls.sort_by_key(|(at, _)| *at);
    let mut all = Vec::new();
    for (at, actions) in calls {
        let mut seen = std::collections::BTreeMap::new();
        for action in actions {
            let call = *seen.entry(action.clone()).and_modify(|count| *count += 1).or_insert(1_usize);
            let is_look = ["Describe", "List", "Get"].iter().any(|look| action.contains(look));
            // The later calls of a kind are looks like the ones before.
            if call <= 6 {
                let kinds = KINDS.iter().filter(|(kind, _)| is_look || *kind != "stale");
                all.extend(kinds.map(|kind| Trouble {
                    case: &cases[at],
                    kind: *kind,
                    action: action.clone(),
                    call,
                }));
            }
        }
    }
    if !is_soak() {
        // A linear congruence: the same sample every time.
        let mut seed = 20_261_122_u64;
        all.retain(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33).is_multiple_of(60)
        });
    }
    all
}

#[test]
fn faults_at_any_call_do_not_change_the_result() {
    let cases = cases();
    let troubles = troubles(&cases);
    println!("{} faults", troubles.len());
    assert!(troubles.len() >= 40);
    let found = side_by_side(&troubles, |trouble| {
        let Trouble { case, kind: (kind, fault), action, call } = trouble;
        let played = play(case, &[fault(action).at([*call])]);
        let (outcome, ecs, service) = &played;
        let at = format!("{kind} at {action} {call}");
        // Before anything is touched an answer that stays out ends the run. Nothing is half done then.
        if outcome.code == Some(3) && ecs.count("ecs:UpdateService") == 0 {
            let runs = ecs.runs(&service.name) == revision(&service.name, 1) && revisions(&service.name) <= 2;
            return if runs { Vec::new() } else { vec![format!("{at}: something was touched\n{outcome}")] };
        }
        // Where ECS could not be asked to roll back, runner has done so itself, and that goes well.
        let is_back = outcome.code == Some(5) && ecs.runs(&service.name) == revision(&service.name, 1);
        if is_back && action == "ecs:StopServiceDeployment" {
            return Vec::new();
        }
        // What a lost answer would have told may be missing in the sentence, but in nothing else.
        let end = End { says: &[], ..case.end };
        let case = Case { end, ..**case };
        problems(&case, &played).into_iter().map(|problem| format!("{at}: {problem}")).collect()
    });
    assert!(found.is_empty(), "{} of {}:\n{}", found.len(), troubles.len(), found.join("\n\n"));
}
