//! `runner image push`.

use crate::address::{self, ImageRepository, LATEST, Repository, split_tag};
use crate::cli::load;
use crate::cli::session::{Session, cancel_on_signals};
use crate::exit::{Exit, Failure};
use crate::process::Stopping;
use crate::registry::compress::Compression;
use crate::registry::push::Progress;
use crate::registry::retries::OnWait;
use crate::step::transfer::ImagePush;
use crate::text::human_size;
use clap::{Args, ValueEnum};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The interval at which the progress bar is drawn.
const REDRAW: Duration = Duration::from_millis(100);
/// The width of the bar, in characters.
const BAR: usize = 30;

/// Push a local image, and print HOST/REPOSITORY@sha256:…
#[derive(Debug, Args)]
#[command(after_help = "\
Layers that the repository already has are neither compressed nor sent. Logins come from Docker's
configuration and its credential helpers; if these have none for ECR, from AWS.

Examples:
  runner image push webapp:v1 123456789012.dkr.ecr.eu-west-1.amazonaws.com/webapp:v1
  runner image push --compression zstd webapp:v1 registry.example.com/webapp:v1")]
pub(crate) struct Push {
    /// The name or ID of the image in the Docker Engine
    image: String,
    /// The destination: HOST/REPOSITORY[:TAG]
    destination: String,
    /// The compression of layers; zstd is smaller and faster, but needs Docker Engine 23 to pull
    #[arg(long, value_enum, default_value_t = Format::Gzip)]
    compression: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Gzip,
    Zstd,
}

pub(crate) async fn main(arguments: &Push, session: &Session) -> Result<Exit, Failure> {
    let Session { masks, printer } = session;
    let (repository, tag) = destination(&arguments.destination)?;
    let compression = match arguments.compression {
        Format::Gzip => Compression::Gzip,
        Format::Zstd => Compression::Zstd,
    };
    let push = ImagePush { image: arguments.image.clone(), repository, tag, compression };
    let settings = load::settings(&load::process())?;
    let cancellation = cancel_on_signals(Stopping::default())?;
    let progress = Progress::default();
    let mut warn = |text: String| printer.warning(&text);
    let on_wait: OnWait = Arc::new({
        let printer = printer.clone();
        move |text| {
            if std::io::stderr().is_terminal() {
                erase();
            }
            printer.message(&text);
            Box::pin(async {})
        }
    });
    let stop = &cancellation.stopping.soft;
    let pushed = tokio::select! {
        pushed = push.run(&settings, masks, &progress, stop, &mut warn, on_wait) => pushed,
        () = stop.cancelled() => Err(Failure::stopped()),
        () = draw(&progress), if std::io::stderr().is_terminal() => unreachable!("the bar is drawn until it is dropped"),
    };
    if std::io::stderr().is_terminal() {
        erase();
    }
    let pushed = pushed.map_err(|failure| match cancellation.signal.load(Ordering::SeqCst) {
        0 => failure,
        signal => Failure::new(
            Exit::Signal(signal),
            "stopped before the push was finished; no tag refers to an incomplete image",
        ),
    })?;
    printer.message(&pushed.summary.to_string());
    printer.verbatim(&format!("{}@{}\n", push.repository, pushed.digest))?;
    Ok(Exit::Done)
}

/// `HOST/REPOSITORY[:TAG]`
fn destination(text: &str) -> Result<(Repository, String), Failure> {
    let usage = |message: String| {
        Failure::usage(message).help("write HOST/REPOSITORY:TAG, such as registry.example.com/webapp:v1")
    };
    let (name, tag) = split_tag(text);
    let tag = tag.unwrap_or(LATEST);
    match text.split_once('@') {
        // The text before the `@` may be a password, so the message does not show it.
        Some((_, rest)) if !rest.starts_with("sha256:") => {
            let message = "the destination contains a login, which belongs in Docker's configuration";
            return Err(
                Failure::usage(message).help("log in with `docker login`, and write HOST/REPOSITORY:TAG")
            );
        }
        Some(_) => return Err(usage(format!("`{text}` has a digest, which only the push determines"))),
        None => {}
    }
    if let Some((_, scheme_less)) = text.split_once("://") {
        return Err(usage(format!("write `{scheme_less}`: a destination has no URL scheme")));
    }
    let repository = match ImageRepository::parse(name).map_err(|error| usage(error.to_string()))? {
        ImageRepository::PrivateEcr { repository, .. }
        | ImageRepository::PublicEcr(repository)
        | ImageRepository::Elsewhere(repository) => repository,
        ImageRepository::Bare(_) => return Err(usage(format!("`{text}` names no registry"))),
    };
    address::check_tag(tag).map_err(|error| usage(error.to_string()))?;
    Ok((repository, tag.to_owned()))
}

/// Draws the progress of the push until the future is dropped.
async fn draw(progress: &Progress) {
    let mut redraw = tokio::time::interval(REDRAW);
    let mut seen = 0;
    loop {
        redraw.tick().await;
        let [read, made, sent] =
            [&*progress.read, &progress.made, &*progress.sent].map(|count| count.load(Ordering::Relaxed));
        let full = usize::try_from(sent.saturating_mul(BAR as u64).checked_div(made).unwrap_or_default());
        let bar = "=".repeat(full.unwrap_or_default().min(BAR));
        // While layers are being read, more bytes will have to be sent.
        let now = if read == seen { "" } else { ", compressing" };
        seen = read;
        let mut screen = std::io::stderr().lock();
        let _ = write!(
            screen,
            "\r\x1b[K[{bar:<BAR$}] {sent} of {made} bytes sent{now} ({} read)",
            human_size(read)
        );
        let _ = screen.flush();
    }
}

/// Erases the bar.
fn erase() {
    let _ = write!(std::io::stderr(), "\r\x1b[K");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, String)> {
        destination(text).ok().map(|(repository, tag)| (repository.to_string(), tag))
    }

    #[test]
    fn destinations_are_parsed_as_docker_does() {
        for (text, name, tag) in [
            ("r.example/a/b:v1", "r.example/a/b", "v1"),
            ("r.example/a", "r.example/a", "latest"),
            ("localhost:5000/a", "localhost:5000/a", "latest"),
            ("localhost:5000/a:v", "localhost:5000/a", "v"),
        ] {
            assert_eq!(parsed(text), Some((name.to_owned(), tag.to_owned())), "{text}");
        }
        for wrong in [
            "app",
            "app:v1",
            "r.example/a@sha256:00",
            "r.example/A:v",
            "r.example/a:",
            "",
            "https://r.example/a",
            "me:word@r.example/a",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
            assert!(!destination(wrong).unwrap_err().message.contains("word"), "{wrong}");
        }
    }
}
