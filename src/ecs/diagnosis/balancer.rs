//! Interprets failed health checks of load balancers.

use super::excerpt::{between, group_name};
use super::{Cause, CauseKind};

/// The cause for a failed health check, from ECS's message.
pub(crate) fn load_balancer_check(message: &str, path: Option<&str>) -> Cause {
    let group =
        between(message, "target-group ", &[')', ' ', ',']).or_else(|| between(message, "(elb ", &[')']));
    let group = group.map(|group| format!(" (target group `{}`)", group_name(group))).unwrap_or_default();
    let path = path.map(|path| format!(" of path `{path}`")).unwrap_or_default();
    let port = between(message, "(port ", &[')']).map(|port| format!(" on port {port}")).unwrap_or_default();
    let reason = message
        .split_once("(reason ")
        .map(|(_, reason)| reason.rfind(')').map_or(reason, |end| &reason[..end]));
    let codes = between(message, "codes: [", &[']']);
    let (what, help) = outcome(codes, reason);
    Cause::new(
        CauseKind::LoadBalancerCheck,
        None,
        format!("the load balancer's health check{path}{port} {what}{group}"),
    )
    .help(help)
}

fn outcome(codes: Option<&str>, reason: Option<&str>) -> (String, &'static str) {
    let Some(codes) = codes else {
        let reason = reason.unwrap_or_default().trim_end_matches('.');
        return match reason {
            "Request timed out" => (
                "was not answered in time".to_owned(),
                "the program must listen on 0.0.0.0 and that port, and the task's security group must \
                 allow the load balancer",
            ),
            "" | "Health checks failed" => (
                "failed".to_owned(),
                "check that the program listens on the target group's port and answers its path; a slow \
                 start needs a longer health check grace period",
            ),
            reason if reason.contains("Availability Zone") => (
                format!("failed: {reason}"),
                "the load balancer needs a subnet in each zone that tasks run in",
            ),
            reason => (
                format!("failed: {reason}"),
                "check that the program listens on the target group's port and answers its path",
            ),
        };
    };
    let help = match codes.as_bytes().first() {
        Some(b'3') => {
            "the path returns a redirect: check another path, or accept that status in the target group"
        }
        Some(b'4') if codes.starts_with("401") || codes.starts_with("403") => {
            "the path requires a login: check another path"
        }
        Some(b'4') => "correct the target group's health check path, or return 200 for it",
        _ => "the program itself fails on the path: see its log",
    };
    (format!("returned status {codes}"), help)
}
