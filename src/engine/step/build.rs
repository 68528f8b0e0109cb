//! `build`.

use super::Context;
use crate::address;
use crate::docker::context;
use crate::docker::solver::Build;
use crate::engine::state::ImageState;
use crate::exit::Failure;
use crate::pipeline::model::{CacheTo, Image, Name};
use crate::secret::Secret;
use crate::text::human_size;
use std::collections::HashMap;

/// The host that images carry whose repository is not in a registry of this name. It never resolves (RFC 6761).
pub(super) const LOCAL_HOST: &str = "local.invalid";

pub(super) async fn run(cx: &mut Context<'_>, images: &[Name]) -> Result<(), Failure> {
    for name in images {
        one(cx, name).await?;
    }
    Ok(())
}

async fn one(cx: &mut Context<'_>, name: &Name) -> Result<(), Failure> {
    let image = cx.image(name)?;
    let repository = cx.repository(&image)?;
    let tags = cx.tags(&image)?;
    let context = cx.path(&image.context)?;
    let written = image.dockerfile.as_ref().map(|written| cx.resolve(written)).transpose()?;
    let build = Build {
        dockerfile: context::dockerfile(&cx.run.job.directory, &context, written.as_deref()),
        context,
        target: image.target.as_ref().map(|target| cx.resolve(target)).transpose()?,
        args: cx.resolve_pairs(&image.args)?,
        labels: cx.resolve_pairs(&image.labels)?,
        secrets: secrets(cx, &image)?,
        cache_from: cx.resolve_all(&image.cache_from)?,
        inline_cache: image.cache_to == CacheTo::Inline,
        names: tags.iter().map(|tag| format!("{repository}:{tag}")).collect(),
        logins: cx.run.services.logins(cx.access()?),
    };
    let engine = cx.run.services.docker().await?.clone();
    // A login that failed for an earlier build did not keep it from succeeding.
    cx.run.services.take_login_failure().await;
    let built = match engine.build(&build, cx.output, &cx.stopping.soft).await {
        Ok(built) => built,
        Err(error) => {
            let login = cx.run.services.take_login_failure().await;
            return Err(login.unwrap_or_else(|| error.into()));
        }
    };
    let size = engine.image(&built.id).await?.size;
    let state = ImageState { id: built.id.clone(), ..ImageState::default() };
    cx.run.state.images.insert(name.value.clone(), state);
    cx.run.job.values.forget_image(&name.value);
    let detail = format!(
        "{} · {} · {} of {} steps cached",
        short_id(&built.id),
        human_size(size),
        built.summary.cached,
        built.summary.cached + built.summary.run,
    );
    cx.run.events.result("built", &name.value, detail).await;
    Ok(())
}

impl Context<'_> {
    /// The image of that name; references have been checked with the file.
    pub(super) fn image(&self, name: &Name) -> Result<Image, Failure> {
        let image = self.run.job.pipeline.images.get(&name.value).cloned();
        image.ok_or_else(|| Failure::usage(format!("there is no image `{}`", name.value)))
    }

    /// The name that the image's repository has in the engine: with its registry where the file names one.
    pub(super) fn repository(&self, image: &Image) -> Result<String, Failure> {
        let name = self.resolve(&image.repository)?;
        let known =
            address::Repository::parse(&name).map_err(|error| self.at(image.repository.span, error))?;
        Ok(known.map_or_else(|| format!("{LOCAL_HOST}/{name}"), |repository| repository.to_string()))
    }

    /// The image's tags, each once.
    pub(super) fn tags(&self, image: &Image) -> Result<Vec<String>, Failure> {
        let mut tags = Vec::new();
        for template in &image.tags {
            let tag = self.resolve(template)?;
            address::check_tag(&tag).map_err(|error| self.at(template.span, error))?;
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        Ok(tags)
    }

    /// A failure about a value of the pipeline file, with its place.
    fn at(&self, span: crate::pipeline::source::Span, error: impl std::error::Error) -> Failure {
        let message = crate::exit::chain(&error);
        self.run.job.located(&crate::pipeline::diagnostic::Diagnostic::new(message, span))
    }
}

fn secrets(cx: &Context<'_>, image: &Image) -> Result<HashMap<String, Secret>, Failure> {
    image.secrets.iter().map(|name| Ok((name.value.clone(), cx.secret(name)?))).collect()
}

impl Context<'_> {
    /// The value of a secret variable.
    pub(super) fn secret(&self, name: &Name) -> Result<Secret, Failure> {
        self.values.get(&name.value).map(Secret::new).ok_or_else(|| {
            let problem = crate::pipeline::diagnostic::Diagnostic::new(
                format!("the secret `{}` has no value", name.value),
                name.span,
            );
            self.run.job.located(&problem.help("give it in --env-file or in the environment"))
        })
    }
}

/// The first twelve digits of an id, as the docker command shows it.
fn short_id(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
