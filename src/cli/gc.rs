//! `runner gc`.

use super::load;
use super::session::Session;
use crate::engine::gc;
use crate::exit::{Exit, Failure};
use clap::Args;
use std::path::{Path, PathBuf};

/// Remove the leftovers of interrupted runs: processes, temporary files, containers, networks, volumes
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing that belongs to a running runner is removed. Containers, networks, volumes and processes are
searched for on the whole machine, temporary files only in the directory of the pipeline file.

Example:
  runner gc")]
pub(crate) struct Arguments {
    /// The pipeline file, whose directory is cleaned
    #[arg(long, short, default_value = "pipeline.yml", value_name = "FILE")]
    file: PathBuf,
}

pub(crate) async fn main(arguments: &Arguments, session: &Session) -> Result<Exit, Failure> {
    let process = load::process();
    let directory = arguments.file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let artifacts = load::artifacts(&process, directory);
    let cleared = gc::clear(directory, &artifacts, &load::settings(&process)?.docker).await?;
    for kept in &cleared.kept {
        session.printer.message(&format!("left alone: {kept}"));
    }
    let mut text: String = cleared.removed.iter().map(|removed| format!("removed {removed}\n")).collect();
    if text.is_empty() {
        text.push_str("nothing was left behind\n");
    }
    session.printer.result(&text)?;
    Ok(Exit::Done)
}
