//! Stores behind a network, made from the settings that their own tools use.
//!
//! Every setting is an environment variable with the name that users of the store know. What is
//! missing or wrong is said here, naming the variable, and not by the first request; a secret's
//! value is never repeated.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::multipart::MultipartStore;
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig,
};
use url::{Position, Url};

use super::limited::Limited;
use crate::error::{Error, Result};
use crate::limits;

/// Environment variables that stores understand begin so.
const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// More repetitions than there is time for.
const RETRIES_MAX: usize = 1000;

/// Variables of Azure's own tools that mean the same as those on the right.
const AZURE_NAMES: [(&str, &str); 2] = [
    ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"),
    ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
];

/// Parts of Azure's connection string, and the variables that mean the same.
const AZURE_CONNECTION: [(&str, &str); 4] = [
    ("AccountName", "AZURE_STORAGE_ACCOUNT_NAME"),
    ("AccountKey", "AZURE_STORAGE_ACCOUNT_KEY"),
    ("SharedAccessSignature", "AZURE_STORAGE_SAS_TOKEN"),
    ("BlobEndpoint", "AZURE_STORAGE_ENDPOINT"),
];

/// How remote stores are reached.
#[derive(Clone)]
pub struct StoreSettings {
    /// Environment variables, by name: those of this process unless a test says otherwise.
    pub variables: Vec<(String, String)>,
    /// How long one request is tried again, in milliseconds; 0 is never.
    pub retry_ms_max: u64,
    /// Requests under way at once, of one store.
    pub requests_max: usize,
}

impl Default for StoreSettings {
    fn default() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            let is_ours = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            is_ours.then_some((name, value))
        });
        StoreSettings {
            variables: variables.collect(),
            retry_ms_max: limits::STORE_RETRY_MS_MAX,
            requests_max: limits::STORE_REQUESTS_MAX,
        }
    }
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.variables.iter().map(|(name, _)| name).collect();
        f.debug_struct("StoreSettings")
            .field("variables", &names)
            .field("retry_ms_max", &self.retry_ms_max)
            .field("requests_max", &self.requests_max)
            .finish()
    }
}

impl StoreSettings {
    /// The value of the first of these variables that is there and not empty.
    fn value(&self, names: &[&str]) -> Option<&str> {
        let of = |wanted: &&str| {
            let found = self.variables.iter().find(|(name, _)| name == *wanted);
            found.map(|(_, value)| value.as_str())
        };
        names.iter().filter_map(of).find(|value| !value.is_empty())
    }

    fn is_true(&self, name: &str) -> bool {
        let value = self.value(&[name]).unwrap_or_default();
        ["true", "1", "yes", "on", "y"].contains(&value.to_ascii_lowercase().as_str())
    }

    /// The variables as a builder's own keys; those that it does not know are not for it, and an
    /// empty one is none.
    fn keys<K: FromStr>(&self) -> impl Iterator<Item = (K, &str)> {
        let set = self.variables.iter().filter(|(_, value)| !value.is_empty());
        set.filter_map(|(name, value)| {
            let key = name.to_ascii_lowercase().parse().ok()?;
            Some((key, value.as_str()))
        })
    }

    fn retries(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(limits::STORE_BACKOFF_MS),
                max_backoff: Duration::from_millis(limits::STORE_BACKOFF_MS_MAX),
                base: 2.0,
            },
            // The time decides.
            max_retries: match self.retry_ms_max {
                0 => 0,
                _ => RETRIES_MAX,
            },
            retry_timeout: Duration::from_millis(self.retry_ms_max),
        }
    }

    /// Azure's variables with one name for one thing.
    fn with_azure_names(mut self) -> Self {
        let connection = self.value(&["AZURE_STORAGE_CONNECTION_STRING"]);
        let parts = connection.unwrap_or_default().split(';');
        let mut same: Vec<(String, String)> = parts
            .filter_map(|part| {
                let (name, value) = part.split_once('=')?;
                let (_, meant) = AZURE_CONNECTION.iter().find(|(known, _)| *known == name)?;
                Some(((*meant).to_owned(), value.to_owned()))
            })
            .collect();
        for (name, meant) in AZURE_NAMES {
            let value = self.value(&[name]).map(str::to_owned);
            same.extend(value.map(|value| (meant.to_owned(), value)));
        }
        // The longer names come last: builders take the last value.
        self.variables.splice(..0, same);
        self
    }
}

/// A store, and its interface for uploads in parts if it has one.
#[derive(Clone)]
pub(super) struct Remote {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) multipart: Option<Arc<dyn MultipartStore>>,
}

impl Remote {
    pub(super) fn both<S: ObjectStore + MultipartStore>(store: Arc<S>) -> Self {
        Remote {
            store: store.clone(),
            multipart: Some(store),
        }
    }

    fn limited<S: ObjectStore + MultipartStore>(store: S, settings: &StoreSettings) -> Self {
        Remote::both(Arc::new(Limited::new(store, settings.requests_max)))
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.store)
    }
}

/// The store that holds `url`.
///
/// # Errors
/// `Invalid`, naming the URL and the variable, for settings that are missing or wrong.
pub(super) fn open(url: &Url, settings: &StoreSettings) -> Result<Remote> {
    let scheme = ObjectStoreScheme::parse(url).map_err(|error| {
        Error::invalid(format!("no store holds this URL url={url}")).with_source(error)
    })?;
    let wrong = |error: object_store::Error| wrong(url, "the store's settings are wrong", error);
    match scheme.0 {
        ObjectStoreScheme::AmazonS3 => open_s3(url, settings),
        ObjectStoreScheme::GoogleCloudStorage => {
            let builder = GoogleCloudStorageBuilder::new()
                .with_url(url.as_str())
                .with_client_options(client())
                .with_retry(settings.retries());
            let keys = settings.keys::<GoogleConfigKey>();
            let builder = keys.fold(builder, |builder, (key, value)| {
                builder.with_config(key, value)
            });
            let store = builder.build().map_err(wrong)?;
            Ok(Remote::limited(store, settings))
        }
        ObjectStoreScheme::MicrosoftAzure => open_azure(url, settings),
        ObjectStoreScheme::Http => {
            // Whoever types `http` means it.
            let options = client().with_allow_http(url.scheme() == "http");
            let builder = HttpBuilder::new()
                .with_url(&url[..Position::BeforePath])
                .with_client_options(options)
                .with_retry(settings.retries());
            let store = builder.build().map_err(wrong)?;
            Ok(Remote {
                store: Arc::new(Limited::new(store, settings.requests_max)),
                multipart: None,
            })
        }
        _ => Err(Error::invalid(format!("no store holds this URL url={url}"))),
    }
}

fn open_s3(url: &Url, settings: &StoreSettings) -> Result<Remote> {
    let endpoints = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    let endpoint = check_endpoint(url, settings, &endpoints, "AWS_ALLOW_HTTP")?;
    let pair = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    match pair.map(|name| settings.value(&[name])) {
        [Some(_), None] => return Err(missing(url, pair[1])),
        [None, Some(_)] => return Err(missing(url, pair[0])),
        _ => {}
    }
    let builder = AmazonS3Builder::new()
        .with_url(url.as_str())
        .with_client_options(client())
        .with_retry(settings.retries());
    let keys = settings.keys::<AmazonS3ConfigKey>();
    let mut builder = keys.fold(builder, |builder, (key, value)| {
        builder.with_config(key, value)
    });
    if let Some(mut endpoint) = endpoint {
        // With the bucket in the host's name, it is also in that of another endpoint.
        if settings.is_true("AWS_VIRTUAL_HOSTED_STYLE_REQUEST") {
            let bucket = url.host_str().unwrap_or_default();
            let host = endpoint.host_str().unwrap_or_default();
            if !host.starts_with(&format!("{bucket}.")) {
                let host = format!("{bucket}.{host}");
                let set = endpoint.set_host(Some(&host));
                set.map_err(|error| wrong(url, "no host name for the bucket", error))?;
            }
        }
        let endpoint = endpoint.as_str().trim_end_matches('/');
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    let built = builder.build();
    let store = built.map_err(|error| wrong(url, "the store's settings are wrong", error))?;
    Ok(Remote::limited(store, settings))
}

fn open_azure(url: &Url, settings: &StoreSettings) -> Result<Remote> {
    let settings = settings.clone().with_azure_names();
    let endpoints = ["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"];
    check_endpoint(url, &settings, &endpoints, "AZURE_ALLOW_HTTP")?;
    let emulator = ["AZURE_STORAGE_USE_EMULATOR", "AZURE_USE_EMULATOR"];
    let is_named = !url.username().is_empty()
        || url.scheme() == "https"
        || emulator.iter().any(|name| settings.is_true(name));
    if !is_named && settings.value(&["AZURE_STORAGE_ACCOUNT_NAME"]).is_none() {
        return Err(missing(url, "AZURE_STORAGE_ACCOUNT_NAME"));
    }
    let builder = MicrosoftAzureBuilder::new()
        .with_url(url.as_str())
        .with_client_options(client())
        .with_retry(settings.retries());
    let keys = settings.keys::<AzureConfigKey>();
    let builder = keys.fold(builder, |builder, (key, value)| {
        builder.with_config(key, value)
    });
    let built = builder.build();
    let store = built.map_err(|error| wrong(url, "the store's settings are wrong", error))?;
    Ok(Remote::limited(store, &settings))
}

/// The endpoint that one of `names` sets, if it does.
fn check_endpoint(
    url: &Url,
    settings: &StoreSettings,
    names: &[&str],
    allow: &str,
) -> Result<Option<Url>> {
    let set = |name: &&&str| settings.value(&[name]).is_some();
    let Some(name) = names.iter().find(set) else {
        return Ok(None);
    };
    let value = settings.value(&[name]).unwrap_or_default();
    let parsed = Url::parse(value).ok();
    let parsed = parsed.filter(|endpoint| ["http", "https"].contains(&endpoint.scheme()));
    let Some(endpoint) = parsed else {
        return Err(Error::invalid(format!(
            "cannot open {url}: {name} is not an http or https URL"
        )));
    };
    if endpoint.scheme() == "http" && !settings.is_true(allow) {
        return Err(Error::invalid(format!(
            "cannot open {url}: {name} is not encrypted; {allow}=true allows that"
        )));
    }
    Ok(Some(endpoint))
}

fn client() -> ClientOptions {
    let ms = |ms: u64| format!("{ms}ms");
    ClientOptions::new()
        .with_config(ClientConfigKey::Timeout, ms(limits::STORE_REQUEST_MS_MAX))
        .with_config(
            ClientConfigKey::ReadTimeout,
            ms(limits::STORE_SILENCE_MS_MAX),
        )
}

fn missing(url: &Url, name: &str) -> Error {
    Error::invalid(format!("cannot open {url}: {name} is not set"))
}

fn wrong(url: &Url, what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::invalid(format!("cannot open {url}: {what}")).with_source(error)
}
