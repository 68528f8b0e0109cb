//! `test`: a command in a container of exactly the image that was built.

use super::Context;
use crate::docker::container::ContainerRun;
use crate::exit::{Exit, Failure};
use crate::pipeline::model::Test;
use crate::pipeline::template::Template;
use crate::secret::Secret;
use indexmap::IndexMap;

pub(super) async fn run(
    cx: &mut Context<'_>,
    test: &Test,
    env: &IndexMap<String, Template>,
) -> Result<(), Failure> {
    let id = cx.built_image(&test.image.value)?;
    let mut variables: Vec<(String, Secret)> =
        env.keys().filter_map(|name| Some((name.clone(), Secret::new(cx.values.get(name)?)))).collect();
    for name in &test.secrets {
        variables.push((name.value.clone(), cx.secret(name)?));
    }
    let argv = |templates: &Option<Vec<Template>>| {
        templates.as_ref().map(|templates| cx.resolve_all(templates)).transpose()
    };
    let container = ContainerRun {
        image: id,
        command: argv(&test.command)?,
        entrypoint: argv(&test.entrypoint)?,
        env: variables,
        user: test.user.as_ref().map(|user| cx.resolve(user)).transpose()?,
        workdir: test.workdir.as_ref().map(|workdir| cx.resolve(workdir)).transpose()?,
        run: cx.run.state.build_id.clone(),
    };
    let engine = cx.run.services.docker().await?.clone();
    let end = engine.run(&container, cx.output, &cx.stopping.soft).await?;
    let image = &test.image.value;
    if end.code == 0 && !end.out_of_memory {
        cx.run.events.result("tested", image, "passed").await;
        return Ok(());
    }
    let reason = match end.code {
        _ if end.out_of_memory => "the container ran out of memory".to_owned(),
        code @ 129..=192 => format!("exit code {code}, ended by signal {}", code - 128),
        code => format!("exit code {code}"),
    };
    cx.run.events.result("tested", image, format!("failed: {reason}")).await;
    let message = format!("the tests of the image `{image}` failed: {reason}");
    Err(Failure::new(Exit::TestsFailed, message))
}

impl Context<'_> {
    /// The id of an image that this build has made.
    pub(super) fn built_image(&self, name: &str) -> Result<String, Failure> {
        let image = self.run.state.images.get(name);
        image.map(|image| image.id.clone()).ok_or_else(|| {
            Failure::usage(format!("the image `{name}` has not been built in this build"))
                .help(format!("put `build: {name}` before this step, or run that phase first"))
        })
    }

    /// `repository@sha256:…` of an image that this build has pushed.
    pub(super) fn pushed_image(&self, name: &str) -> Result<String, Failure> {
        let image = self.run.state.images.get(name);
        image.and_then(|image| image.uri.clone()).ok_or_else(|| {
            Failure::usage(format!("the image `{name}` has not been pushed in this build"))
                .help(format!("put `push: {name}` before this step, or run that phase first"))
        })
    }
}
