//! The settings of the board: who signs in, and by which names it is reached.

use std::net::IpAddr;

use ipnet::IpNet;
use url::Host;

use crate::api_key::ApiKey;
use crate::config::error::{ConfigError, wrong};
use crate::config::values::list;
use crate::config::{OpsProxy, Settings};
use crate::ops_key::{OpsKeys, OpsRole};
use crate::secret::Secret;

const HEADER: &str = "USHER_OPS_USER_HEADER";
const PROXIES: &str = "USHER_OPS_USER_PROXIES";

impl Settings {
    pub(super) fn ops_keys(&self, api_keys: &[ApiKey]) -> Result<OpsKeys, ConfigError> {
        let given = self.usher_ops_keys.as_ref().map_or("", Secret::expose);
        OpsKeys::parse(given, api_keys)
            .map_err(|(position, error)| wrong("USHER_OPS_KEYS", format!("entry {position} {error}")))
    }

    pub(super) fn ops_hosts(&self) -> Result<Vec<String>, ConfigError> {
        let hosts = list(self.usher_ops_hosts.as_deref());
        let is_name = |host: &&str| Host::parse(host).is_ok_and(|parsed| parsed.to_string() == **host);
        if hosts.iter().all(|host| is_name(&host.as_str())) {
            Ok(hosts)
        } else {
            Err(wrong(
                "USHER_OPS_HOSTS",
                "must be host names in lower case, without https:// and port, such as ops.example.com",
            ))
        }
    }

    /// One of both settings alone would let all in, or none.
    pub(super) fn ops_proxy(&self) -> Result<Option<OpsProxy>, ConfigError> {
        let proxies = list(self.usher_ops_user_proxies.as_deref());
        let (header, role) = match (self.usher_ops_user_header.as_deref(), proxies.is_empty()) {
            (None, true) => return Ok(None),
            (None, false) => {
                let problem = format!("needs {HEADER}, the header in which the proxy names users; or leave it out");
                return Err(wrong(PROXIES, problem));
            }
            (Some(_), true) => {
                let problem = format!("needs {PROXIES}, the addresses of the proxy: anyone else could send the header");
                return Err(wrong(HEADER, problem));
            }
            (Some(text), false) => {
                let (header, role) = text.split_once(':').unwrap_or((text, OpsRole::View.as_str()));
                (header.trim().to_ascii_lowercase(), role.trim().parse().ok())
            }
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let (true, Some(role)) = (!header.is_empty() && header.bytes().all(is_name), role) else {
            let problem = "must be a header such as X-Forwarded-User, with :view or :operate after it if need be";
            return Err(wrong(HEADER, problem));
        };
        let networks = proxies.iter().map(|text| network(text)).collect::<Option<Vec<_>>>();
        match networks {
            Some(networks) => Ok(Some(OpsProxy { header, role, networks })),
            None => Err(wrong(
                PROXIES,
                "must be addresses such as 10.0.0.5 or networks such as 10.1.0.0/24, but not all addresses",
            )),
        }
    }
}

/// All addresses are no network that can be trusted.
fn network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address.to_canonical()),
        Err(_) => text.parse::<IpNet>().ok()?,
    };
    (network.prefix_len() > 0).then_some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(header: &str, proxies: &str) -> Result<Option<OpsProxy>, String> {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let settings = Settings {
            usher_ops_user_header: given(header),
            usher_ops_user_proxies: given(proxies),
            ..Settings::default()
        };
        settings.ops_proxy().map_err(|error| error.to_string())
    }

    #[test]
    fn a_proxy_is_trusted_by_its_addresses_only() {
        let found = proxy("X-Forwarded-User:operate", "10.0.0.5, 10.1.0.0/24, fd00::/8");
        let found = found.unwrap().unwrap();
        assert_eq!(
            (found.header.as_str(), found.role),
            ("x-forwarded-user", OpsRole::Operate)
        );
        for (peer, expected) in [
            ("10.0.0.5", true),
            ("::ffff:10.0.0.5", true),
            ("10.1.0.255", true),
            ("fd00::1", true),
            ("10.0.0.6", false),
            ("10.1.1.0", false),
            ("127.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(found.calls_from(peer.parse().unwrap()), expected, "{peer}");
        }
        assert_eq!(proxy("Remote-User", "::1").unwrap().unwrap().role, OpsRole::View);
        assert_eq!(proxy("", ""), Ok(None));
    }

    #[test]
    fn one_without_the_other_is_refused_and_so_is_trust_in_all_addresses() {
        for (header, proxies, words) in [
            ("X-User", "", "USHER_OPS_USER_HEADER needs USHER_OPS_USER_PROXIES"),
            ("", "10.0.0.5", "USHER_OPS_USER_PROXIES needs USHER_OPS_USER_HEADER"),
            ("X-User:admin", "10.0.0.5", "USHER_OPS_USER_HEADER must be a header"),
            ("X User", "10.0.0.5", "USHER_OPS_USER_HEADER must be a header"),
            (":view", "10.0.0.5", "USHER_OPS_USER_HEADER must be a header"),
            ("X-User", "10.0.0.5,proxy", "USHER_OPS_USER_PROXIES must be addresses"),
            ("X-User", "0.0.0.0/0", "USHER_OPS_USER_PROXIES must be addresses"),
            ("X-User", "::/0", "USHER_OPS_USER_PROXIES must be addresses"),
        ] {
            let problem = proxy(header, proxies).unwrap_err();
            assert!(problem.starts_with(words), "{header} {proxies}: {problem}");
        }
    }
}
