//! Addresses, parsed once: ARNs, image repositories and references, tags, the hosts of Amazon ECR. Pure.

mod arn;
mod image;

pub(crate) use arn::{Arn, is_account, partition_of, short_name, split_parameter, split_secret};
pub(crate) use image::{
    EcrRegistry, ImageReference, ImageRepository, InvalidName, LATEST, LOCAL_HOST, Repository, check_tag,
    is_ecr_public, split_tag,
};
