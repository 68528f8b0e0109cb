//! The receivers of a run's notifications, with URLs and headers resolved.

use super::Job;
use crate::address::check_webhook;
use crate::exit::Failure;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{NotifyOn, NotifyTarget};
use crate::language::pipeline::template::Template;
use crate::plan::{self, Mode};
use crate::report::notify::{Occasion, Receiver, ReceiverKind, Receivers};
use crate::secret::{MaybeSecret, Secret};
use crate::work::{NOTIFICATIONS_DIRECTORY, Work};

/// Resolves the receivers that this build notifies, and masks their URLs and headers.
pub(crate) fn receivers(job: &Job, work: &Work) -> Result<Receivers, Failure> {
    let project = &job.project;
    let mut receivers = Vec::new();
    let notified = |notify: &&_| plan::condition::notifies(notify, &project.context);
    for notify in project.pipeline.notify.iter().filter(notified) {
        let secret = |template: &Template| match project.mode {
            // Nothing is sent, so the values are not needed.
            Mode::Local => Ok(Secret::new("")),
            Mode::Publish => project.resolve(&job.values, template).map(MaybeSecret::into_secret),
        };
        let address = |template: &Template| {
            let url = secret(template)?;
            match check_webhook(url.expose()) {
                Err(reason) if project.mode == Mode::Publish => {
                    let message = format!("this is not the address of a webhook: {reason}");
                    let help = "write an address that begins with `https://`";
                    Err(project.located(&Diagnostic::new(message, template.span).help(help)))
                }
                _ => Ok(url),
            }
        };
        let (kind, url) = match &notify.target {
            NotifyTarget::Slack { url } => (ReceiverKind::Slack, address(url)?),
            NotifyTarget::Webhook { url, headers, .. } => {
                let headers = headers.iter().map(|(name, value)| Ok((name.clone(), secret(value)?)));
                let headers = headers.collect::<Result<Vec<_>, Failure>>()?;
                for (_, value) in &headers {
                    project.masks.add(value);
                }
                (ReceiverKind::Webhook(headers), address(url)?)
            }
            // A file with SNS is rejected before anything runs.
            NotifyTarget::Sns(_) => continue,
        };
        // Everyone who knows the URL of a webhook can post to it.
        project.masks.add(&url);
        receivers.push(Receiver { kind, url, on: notify.on.iter().copied().map(occasion).collect() });
    }
    match project.mode {
        Mode::Local => Ok(Receivers::written_to(receivers, work.directory.clone(), NOTIFICATIONS_DIRECTORY)),
        Mode::Publish => Receivers::sent(receivers, &job.settings.authorities()),
    }
}

fn occasion(on: NotifyOn) -> Occasion {
    match on {
        NotifyOn::Started => Occasion::Started,
        NotifyOn::PhaseFailed => Occasion::PhaseFailed,
        NotifyOn::Succeeded => Occasion::Succeeded,
        NotifyOn::Failed => Occasion::Failed,
        NotifyOn::Stopped => Occasion::Stopped,
    }
}
