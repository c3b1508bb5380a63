//! A bucket with what opens it. Where the environment holds no credentials, the clients ask the machine's cloud for some,
//! at an address that answers on machines of that cloud alone. So credentials are got before anything else, within a
//! time that nobody minds to wait; what is missing then is told by the names of its variables, and not tried again.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider};
use object_store::azure::{AzureConfigKey, AzureCredentialProvider, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredentialProvider, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::{BucketError, words};

/// How long credentials may take. A cloud answers its own machines in milliseconds, its token service in a second.
const CREDENTIALS: Duration = Duration::from_secs(10);

/// What a kind of bucket is opened by.
#[derive(Clone, Copy)]
struct Variables {
    credentials: &'static str,
    /// With `true` in it, nothing is signed.
    unsigned: &'static str,
}

const AMAZON: Variables =
    Variables { credentials: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", unsigned: "AWS_SKIP_SIGNATURE" };
const GOOGLE: Variables = Variables {
    credentials: "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT_KEY",
    unsigned: "GOOGLE_SKIP_SIGNATURE",
};
const AZURE: Variables = Variables {
    credentials: "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY",
    unsigned: "AZURE_SKIP_SIGNATURE",
};
/// The one thing that `az://` says nothing of.
const ACCOUNT: &str = "AZURE_STORAGE_ACCOUNT_NAME";

enum Keys {
    Amazon(AwsCredentialProvider),
    Google(GcpCredentialProvider),
    Azure(AzureCredentialProvider),
    /// A public bucket: nothing is signed.
    None,
}

impl Keys {
    /// Gets them, or has them still.
    async fn get(&self) -> object_store::Result<()> {
        match self {
            Self::Amazon(keys) => keys.get_credential().await.map(drop),
            Self::Google(keys) => keys.get_credential().await.map(drop),
            Self::Azure(keys) => keys.get_credential().await.map(drop),
            Self::None => Ok(()),
        }
    }
}

/// A bucket that can be asked.
pub(crate) struct Access {
    store: Arc<dyn ObjectStore>,
    keys: Keys,
    variables: Variables,
}

impl Access {
    pub(super) fn amazon(
        builder: AmazonS3Builder,
        client: ClientOptions,
        retry: RetryConfig,
    ) -> object_store::Result<Self> {
        let unsigned = is_true(builder.get_config_value(&AmazonS3ConfigKey::SkipSignature));
        let store = Arc::new(builder.with_client_options(client).with_retry(retry).build()?);
        let keys = if unsigned { Keys::None } else { Keys::Amazon(Arc::clone(store.credentials())) };
        Ok(Self { store, keys, variables: AMAZON })
    }

    pub(super) fn google(
        builder: GoogleCloudStorageBuilder,
        client: ClientOptions,
        retry: RetryConfig,
    ) -> object_store::Result<Self> {
        let unsigned = is_true(builder.get_config_value(&GoogleConfigKey::SkipSignature));
        let store = Arc::new(builder.with_client_options(client).with_retry(retry).build()?);
        let keys = if unsigned { Keys::None } else { Keys::Google(Arc::clone(store.credentials())) };
        Ok(Self { store, keys, variables: GOOGLE })
    }

    /// The error says which variable is missing, where that is the account.
    pub(super) fn azure(
        builder: MicrosoftAzureBuilder,
        client: ClientOptions,
        retry: RetryConfig,
    ) -> Result<Self, String> {
        let unsigned = is_true(builder.get_config_value(&AzureConfigKey::SkipSignature));
        let has_account = builder.get_config_value(&AzureConfigKey::AccountName).is_some();
        let built = builder.with_client_options(client).with_retry(retry).build();
        let store = Arc::new(built.map_err(|error| match has_account {
            true => words(&error),
            false => format!("{ACCOUNT} is not set, which says whose container it is"),
        })?);
        let keys = if unsigned { Keys::None } else { Keys::Azure(Arc::clone(store.credentials())) };
        Ok(Self { store, keys, variables: AZURE })
    }

    /// The bucket at `address`, with credentials that are good for now.
    pub(crate) async fn open(
        &self,
        address: &dyn std::fmt::Display,
    ) -> Result<&dyn ObjectStore, BucketError> {
        self.open_within(CREDENTIALS, address).await
    }

    async fn open_within(
        &self,
        patience: Duration,
        address: &dyn std::fmt::Display,
    ) -> Result<&dyn ObjectStore, BucketError> {
        let tried = match tokio::time::timeout(patience, self.keys.get()).await {
            Ok(Ok(())) => return Ok(&*self.store),
            Ok(Err(error)) => words(&error),
            Err(_) => format!("nobody gave any within {patience:?}"),
        };
        let Variables { credentials, unsigned } = self.variables;
        let detail = format!("set {credentials}, or {unsigned}=true where it is public ({tried})");
        Err(BucketError::Credentials { address: address.to_string(), detail })
    }
}

/// As the clients read it.
fn is_true(value: Option<String>) -> bool {
    let value = value.unwrap_or_default().to_ascii_lowercase();
    matches!(value.as_str(), "1" | "true" | "on" | "yes" | "y")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;
    use crate::runtime::runtime;

    /// Buckets without credentials, with a loopback address in place of that of a cloud.
    fn without(metadata: &str) -> Vec<(Access, &'static str)> {
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let client = || ClientOptions::new().with_timeout_disabled();
        let amazon = AmazonS3Builder::new().with_bucket_name("b").with_metadata_endpoint(metadata);
        let azure = MicrosoftAzureBuilder::new().with_container_name("b").with_account("a");
        let azure = azure.with_msi_endpoint(metadata);
        vec![
            (
                Access::amazon(amazon, client(), retry.clone()).unwrap(),
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true where it is public",
            ),
            (
                Access::azure(azure, client(), retry).unwrap(),
                "set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY, or AZURE_SKIP_SIGNATURE=true where it \
                 is public",
            ),
        ]
    }

    #[test]
    fn without_credentials_the_variables_are_named_soon() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let short = Duration::from_millis(50);
        let mut found = Vec::new();
        // It takes the connection, and never answers.
        for (access, wanted) in without(&address) {
            let begun = Instant::now();
            let opened = runtime().unwrap().block_on(access.open_within(short, &"x://b"));
            found.push((opened.err().unwrap().to_string(), wanted, "nobody gave any within 50ms"));
            assert!(begun.elapsed() < CREDENTIALS, "{:?}", begun.elapsed());
        }
        drop(listener);
        for (access, wanted) in without(&address) {
            let opened = runtime().unwrap().block_on(access.open(&"x://b"));
            found.push((opened.err().unwrap().to_string(), wanted, "onnection refused"));
        }
        for (error, wanted, why) in found {
            assert!(error.starts_with(&format!("no credentials for x://b: {wanted} (")), "{error}");
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_public_bucket_needs_none() {
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let client = ClientOptions::new;
        let amazon = AmazonS3Builder::new().with_bucket_name("b");
        let amazon = amazon.with_metadata_endpoint("http://127.0.0.1:1").with_skip_signature(true);
        let google = GoogleCloudStorageBuilder::new().with_bucket_name("b").with_skip_signature(true);
        let azure = MicrosoftAzureBuilder::new().with_container_name("b").with_account("a");
        let azure = azure.with_msi_endpoint("http://127.0.0.1:1".to_owned());
        let azure = azure.with_config(AzureConfigKey::SkipSignature, "yes");
        for access in [
            Access::amazon(amazon, client(), retry.clone()).unwrap(),
            Access::google(google, client(), retry.clone()).unwrap(),
            Access::azure(azure, client(), retry.clone()).unwrap(),
        ] {
            assert!(runtime().unwrap().block_on(access.open(&"x://b")).is_ok());
        }
        let nobody = MicrosoftAzureBuilder::new().with_container_name("b");
        let error = Access::azure(nobody, client(), retry).err().unwrap();
        assert_eq!(error, "AZURE_STORAGE_ACCOUNT_NAME is not set, which says whose container it is");
    }
}
