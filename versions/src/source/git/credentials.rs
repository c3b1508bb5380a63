//! Credentials for git remotes, as git itself finds them: what stands in the URL, the ssh agent, the default ssh
//! keys, the configured credential helpers. Each is offered once, so that a server that refuses all ends the attempt
//! instead of asking forever.

use std::collections::VecDeque;
use std::path::PathBuf;

use git2::{Config, Cred, CredentialType, Error, ErrorClass, ErrorCode};

/// What is left to offer to one connection.
pub(super) struct Credentials {
    config: Option<Config>,
    username_given: bool,
    agent_tried: bool,
    keys: VecDeque<PathBuf>,
    helper_tried: bool,
    default_tried: bool,
}

impl Credentials {
    pub(super) fn new() -> Self {
        let ssh = std::env::home_dir().map(|home| home.join(".ssh"));
        let keys = ["id_ed25519", "id_ecdsa", "id_rsa"];
        Self {
            config: Config::open_default().ok(),
            username_given: false,
            agent_tried: false,
            keys: ssh.map(|ssh| keys.iter().map(|key| ssh.join(key)).collect()).unwrap_or_default(),
            helper_tried: false,
            default_tried: false,
        }
    }

    /// The next thing to offer; an error once there is none.
    pub(super) fn next(
        &mut self,
        url: &str,
        username: Option<&str>,
        allowed: CredentialType,
    ) -> Result<Cred, Error> {
        let user = username.unwrap_or("git");
        if allowed.contains(CredentialType::USERNAME) && !self.username_given {
            self.username_given = true;
            return Cred::username(user);
        }
        if allowed.contains(CredentialType::SSH_KEY) {
            if !std::mem::replace(&mut self.agent_tried, true)
                && std::env::var_os("SSH_AUTH_SOCK").is_some()
                && let Ok(cred) = Cred::ssh_key_from_agent(user)
            {
                return Ok(cred);
            }
            while let Some(key) = self.keys.pop_front() {
                if key.is_file()
                    && let Ok(cred) = Cred::ssh_key(user, None, &key, None)
                {
                    return Ok(cred);
                }
            }
        }
        if allowed.contains(CredentialType::USER_PASS_PLAINTEXT)
            && !std::mem::replace(&mut self.helper_tried, true)
            && let Some(config) = &self.config
            && let Ok(cred) = Cred::credential_helper(config, url, username)
        {
            return Ok(cred);
        }
        if allowed.contains(CredentialType::DEFAULT) && !std::mem::replace(&mut self.default_tried, true) {
            return Cred::default();
        }
        Err(Error::new(ErrorCode::Auth, ErrorClass::Callback, "no credentials left to offer"))
    }
}

/// User name and password from the configured helpers, for requests that libgit2 does not make.
pub(super) fn from_helper(url: &str) -> Option<(String, String)> {
    let config = Config::open_default().ok()?;
    git2::CredentialHelper::new(url).config(&config).execute()
}
