//! A bucket as a warehouse: Amazon S3 and what speaks like it.
//!
//! Commits stand on `PUT` with `If-None-Match: *`, so conditional puts are always on; a service that ignores the header
//! would let two commits of one version both succeed, and must not be used.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path as StorePath;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use thermocline_schemas::{Code, Error, Result};

/// One request with its body; parts of uploads are 8 MiB.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What the client retries by itself, all tries of one call together. A create it sends again after a 5xx, a 429 or a broken
/// connection, though the first may have had its effect: then "already exists" is the answer to a create that succeeded.
const RETRIES_MAX: usize = 5;
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// Root URL and store for `bucket/prefix`. Reads `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`,
/// `AWS_REGION` or `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`; without keys, the
/// instance's or container's role.
pub(super) fn open(address: &str) -> Result<(String, Arc<dyn ObjectStore>)> {
    let options = ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
    let options = options.with_allow_http(allows_http()?);
    let retries =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT };
    build(address, AmazonS3Builder::from_env().with_client_options(options).with_retry(retries))
}

/// `bucket/prefix` through a client that is set up but for its bucket and its conditional puts.
pub(super) fn build(address: &str, client: AmazonS3Builder) -> Result<(String, Arc<dyn ObjectStore>)> {
    let address = address.trim_end_matches('/');
    let (bucket, prefix) = address.split_once('/').unwrap_or((address, ""));
    let refused = |why: &str| Error::new(Code::InvalidRequest, why).with_value(format!("s3://{address}"));
    if bucket.is_empty() || address.contains(['?', '#', '%']) {
        return Err(refused("an S3 warehouse is s3://bucket/prefix, without ?, # and %"));
    }
    let prefix = StorePath::parse(prefix).map_err(|error| refused("the prefix cannot be used").with_source(error))?;
    let store = client
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_bucket_name(bucket)
        .build()
        .map_err(|error| refused("the S3 client cannot be set up").with_source(error))?;
    let root_url = format!("s3://{address}");
    if prefix.is_root() {
        return Ok((root_url, Arc::new(store)));
    }
    Ok((root_url, Arc::new(PrefixStore::new(store, prefix))))
}

fn allows_http() -> Result<bool> {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let allows = variable("AWS_ALLOW_HTTP").is_some_and(|value| matches!(value.as_str(), "true" | "1" | "TRUE"));
    let endpoint = variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"));
    if let Some(endpoint) = endpoint
        && endpoint.starts_with("http://")
        && !allows
    {
        return Err(Error::new(Code::InvalidRequest, "the S3 endpoint is not encrypted")
            .with_value(endpoint)
            .with_hint("set AWS_ALLOW_HTTP=true to use it all the same"));
    }
    Ok(allows)
}
