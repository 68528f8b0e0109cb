//! `scan`: fails if ECR's scan of a pushed image has findings at or above a severity.

use super::StepScope;
use crate::aws::Aws;
use crate::aws::ecr::{Finding, Scan};
use crate::duration;
use crate::event::{Kind, Scanned};
use crate::exit::{Exit, Failure, FailureKind};
use crate::language::pipeline::model::{self, Name, Severity};
use std::time::Duration;
use tokio::time::Instant;

/// The first interval between polls. It doubles each time, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// How many findings the log shows.
const SHOWN: usize = 30;

/// Waits for the findings of every image. Fails if one of them blocks.
pub(crate) async fn gate(
    cx: &StepScope<'_>,
    name: &Name,
    scan: &model::Scan,
    (aws, repository): (&Aws, &str),
    digests: &[String],
) -> Result<(), Failure> {
    let end = Instant::now() + scan.wait;
    let mut found: Vec<Finding> = Vec::new();
    for digest in digests {
        for finding in findings(cx, scan, (aws, repository), digest, end).await? {
            // The images of several platforms have findings in common.
            if !found.contains(&finding) {
                found.push(finding);
            }
        }
    }
    found.sort_by_key(|finding| std::cmp::Reverse(severity(finding)));
    let (ignored, counted): (Vec<_>, Vec<_>) =
        found.iter().partition(|finding| scan.ignore.contains(&finding.id));
    show(cx, &counted).await;
    for id in scan.ignore.iter().filter(|id| !ignored.iter().any(|finding| finding.id == **id)) {
        cx.events
            .warn(format!("`scan.ignore` names {id}, which the image {} does not have", name.value))
            .await;
    }
    let blocking =
        counted.iter().filter(|finding| severity(finding).is_some_and(|found| found >= scan.fail_on)).count();
    let least = format!("{:?}", scan.fail_on).to_lowercase();
    let scanned = Scanned {
        image: cx.events.shown(&name.value),
        findings: counted.len(),
        ignored: ignored.len(),
        blocking,
        threshold: cx.events.shown(&least),
    };
    cx.events.send_for(cx.events.id().inner(&name.value), Kind::ScanFinished(scanned)).await;
    if blocking == 0 {
        return Ok(());
    }
    let message =
        format!("the scan of the image `{}` has {blocking} findings that are {least} or worse", name.value);
    let help = "update the packages, or add the ids of irrelevant findings to `scan.ignore`";
    Err(Failure::new(Exit::StepFailed, message).kind(FailureKind::ScanGate).help(help))
}

/// Waits for the findings of one image.
async fn findings(
    cx: &StepScope<'_>,
    scan: &model::Scan,
    (aws, repository): (&Aws, &str),
    digest: &str,
    end: Instant,
) -> Result<Vec<Finding>, Failure> {
    cx.events.note(format!("waiting for the scan of {digest}")).await;
    let (mut wait, mut started, mut was_empty) = (FIRST_WAIT, false, false);
    loop {
        let status = match aws.ecr_scan(repository, digest).await? {
            Scan::Findings(found) if !found.is_empty() || was_empty => return Ok(found),
            // A scan may be complete before its findings are listed, so only the second empty list counts.
            Scan::Findings(_) => {
                was_empty = true;
                "complete, but without findings".to_owned()
            }
            Scan::NotStarted if started => "not started".to_owned(),
            Scan::NotStarted => {
                aws.ecr_start_scan(repository, digest).await?;
                started = true;
                continue;
            }
            Scan::InProgress(status) => status,
            Scan::Unavailable(reason) => {
                let message = format!("ECR does not scan this image: {reason}");
                let help =
                    "remove `scan` from the image, or check what Amazon Inspector or basic scanning supports";
                return Err(Failure::new(Exit::StepFailed, message).help(help));
            }
        };
        if Instant::now() + wait > end {
            let wait = duration::display(scan.wait);
            let message = format!("the scan did not finish within {wait}: {status}");
            return Err(Failure::new(Exit::Timeout, message).help("increase `scan: { wait: … }`"));
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = cx.stopping.soft.cancelled() => return Err(Failure::stopped()),
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Writes the findings to the log as a table.
async fn show(cx: &StepScope<'_>, findings: &[&Finding]) {
    let shown = findings.iter().take(SHOWN);
    let width =
        |of: fn(&Finding) -> usize| shown.clone().map(|finding| of(finding)).max().unwrap_or_default();
    let (ids, severities, packages) = (
        width(|finding| finding.id.len()),
        width(|finding| finding.severity.len()),
        width(|finding| finding.package.len()),
    );
    for finding in shown.clone() {
        let Finding { id, severity, package, fixed_in } = finding;
        let fixed = fixed_in.as_ref().map(|version| format!("fixed in {version}")).unwrap_or_default();
        let line = format!("{severity:<severities$}  {id:<ids$}  {package:<packages$}  {fixed}");
        cx.events.note(line.trim_end()).await;
    }
    if findings.len() > SHOWN {
        cx.events.note(format!("and {} more", findings.len() - SHOWN)).await;
    }
}

/// The severity of a finding, if it is one that can block.
fn severity(finding: &Finding) -> Option<Severity> {
    match finding.severity.as_str() {
        "CRITICAL" => Some(Severity::Critical),
        "HIGH" => Some(Severity::High),
        "MEDIUM" => Some(Severity::Medium),
        "LOW" => Some(Severity::Low),
        _ => None,
    }
}
