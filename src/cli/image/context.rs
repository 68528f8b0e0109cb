//! `runner image context`.

use crate::cli::load;
use crate::cli::session::Session;
use crate::docker::Engine;
use crate::docker::context::{self, Selection};
use crate::docker::ignore::{IgnoreFile, Rules};
use crate::docker::sizes::Sizes;
use crate::exit::{Exit, Failure};
use crate::text::human_size;
use clap::Args;
use std::path::PathBuf;

/// Go's `os.ModeDir`, as in BuildKit's stat messages.
const DIRECTORY: u32 = 1 << 31;
/// The number of directories, and of files, that `--size` lists.
const LARGEST: usize = 15;

/// List the files of a build context, without those that .dockerignore excludes
#[derive(Debug, Args)]
#[command(after_help = "\
Needs neither Docker nor a pipeline file. `.runner/` and the files for CodePipeline are never part
of a context.

Examples:
  runner image context .
  runner image context . -f docker/web.Dockerfile --size")]
pub(crate) struct Context {
    /// The directory of the context
    directory: PathBuf,
    /// The Dockerfile; its own DOCKERFILE.dockerignore takes precedence over .dockerignore
    #[arg(short, long = "file", value_name = "DOCKERFILE")]
    file: Option<PathBuf>,
    /// List the largest directories and files instead
    #[arg(long)]
    size: bool,
    /// Apply the rules of the local engine: releases before 23 re-include fewer files with `!`
    #[arg(long)]
    engine: bool,
}

pub(crate) async fn main(arguments: &Context, session: &Session) -> Result<Exit, Failure> {
    let directory = &arguments.directory;
    if !directory.is_dir() {
        return Err(Failure::usage(format!("there is no directory {}", directory.display())));
    }
    if let Some(file) = arguments.file.as_ref().filter(|file| !file.is_file()) {
        return Err(Failure::usage(format!("there is no Dockerfile at {}", file.display())));
    }
    let dockerfile = arguments.file.clone().unwrap_or_else(|| directory.join("Dockerfile"));
    let ignore = IgnoreFile::read(Some(&dockerfile), directory)
        .map_err(|error| Failure::usage(crate::exit::chain(&error)))?;
    let rules = if arguments.engine { rules().await? } else { Rules::default() };
    let selection = Selection { exclude: ignore.patterns(), rules, ..Selection::default() };
    let (mut sizes, mut list) = (Sizes::default(), String::new());
    let walked = context::walk(directory, &selection, &mut |stat| {
        if stat.mode & DIRECTORY != 0 {
        } else if arguments.size {
            sizes.add(&stat.path, u64::try_from(stat.size).unwrap_or_default());
        } else {
            // A newline in a name must not look like two names.
            list.push_str(&stat.path.replace('\\', "\\\\").replace('\n', "\\n"));
            list.push('\n');
        }
        true
    });
    walked.map_err(|error| Failure::caused(Exit::Environment, &error.placed(|| ignore)))?;
    session.printer.result(&if arguments.size { report(&sizes) } else { list })?;
    Ok(Exit::Done)
}

/// The rules of the local engine.
async fn rules() -> Result<Rules, Failure> {
    let settings = load::settings(&load::process())?;
    let engine = Engine::connect(&settings.docker).await?;
    Ok(engine.ignore_rules())
}

fn report(sizes: &Sizes) -> String {
    let mut text = format!("{} in {} files\n", human_size(sizes.bytes), sizes.files);
    for (title, entries) in [("directories", sizes.directories()), ("files", sizes.files().collect())] {
        if !entries.is_empty() {
            text.push_str(&format!("\nlargest {title}\n"));
        }
        for (path, size) in entries.into_iter().take(LARGEST) {
            text.push_str(&format!("  {:>10}  {path}\n", human_size(size)));
        }
    }
    text
}
