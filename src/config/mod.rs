//! The configuration: a TOML file and then the environment override defaults that work without either.
//!
//! `sections` defines every key, its default and its allowed values. `load` reads the sources, and reports an error
//! with the key, its value and the allowed values. `values` has types that cannot hold a wrong value, and `addresses`
//! checks names and addresses. Relative paths are relative to the working directory, except the path of an SQLite
//! database, which is relative to `server.data_dir`. No other part of the program reads the environment.

mod addresses;
mod appservices;
mod load;
mod mail;
mod oauth;
mod rtc;
mod sections;
mod values;

use std::path::PathBuf;

pub use self::{
    appservices::AppservicesSection,
    load::{ConfigError, ConfigVariable},
    mail::{MailSection, SmtpEncryption},
    oauth::{OAuthSection, ProviderSection},
    rtc::{LiveKitSettings, LiveKitUrl, RtcSection},
    sections::{
        Config, ConnectionsSection, DatabaseSection, DirectorySection, FederationSection,
        LimitsSection, ListenSection, LogFormat, LoggingSection, MediaSection, MetricsSection,
        PasswordsSection, PushSection, RegistrationSection, ServerNoticesSection, ServerSection,
        SupportSection, TurnSection, UrlPreviewsSection,
    },
    values::{
        AddressHeader, BaseUrl, DatabaseUrl, IpNetwork, LegacyMedia, Localpart, SecretString,
    },
};

impl Config {
    /// Returns the URL at which clients reach this server, without a slash at the end.
    ///
    /// Without `server.public_url` it is the URL of the first listener.
    pub fn public_url(&self) -> BaseUrl {
        if let Some(url) = &self.server.public_url {
            return url.clone();
        }
        let first = self.listen.first().cloned().unwrap_or_default();
        first.url(self.server.name.host())
    }

    /// Returns the URL at which users can contact the administrator.
    ///
    /// If `[support]` has none, it is the URL of the document with the support contacts.
    pub fn admin_contact(&self) -> String {
        let support = &self.support;
        if let Some(email) = &support.admin_email {
            return format!("mailto:{email}");
        }
        if let Some(user_id) = &support.admin_matrix_id {
            return user_id.matrix_to_uri().to_string();
        }
        let document = format!("{}/.well-known/matrix/support", self.public_url());
        support.page.clone().unwrap_or(document)
    }

    /// Returns the directory of the media.
    pub fn media_directory(&self) -> PathBuf {
        self.media
            .directory
            .clone()
            .unwrap_or_else(|| self.server.data_dir.join("media"))
    }
}

impl ListenSection {
    /// Returns the URL of this listener.
    ///
    /// A listener on all addresses has no address of its own, so `host` is used.
    pub fn url(&self, host: &str) -> BaseUrl {
        let (scheme, usual_port) = if self.tls_certificate.is_some() {
            ("https", 443)
        } else {
            ("http", 80)
        };
        let host = if self.address.ip().is_unspecified() {
            host.to_owned()
        } else if self.address.is_ipv6() {
            format!("[{}]", self.address.ip())
        } else {
            self.address.ip().to_string()
        };
        let port = self.address.port();
        BaseUrl::from_parts(scheme, &host, (port != usual_port).then_some(port))
    }
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;

    const EXAMPLE_CONFIG: &str = include_str!("../../config.example.toml");

    #[test]
    fn the_example_has_every_key_with_its_default() {
        let defaults = Table::try_from(Config::default()).expect("can be written");

        let example: Table = EXAMPLE_CONFIG.parse().expect("is TOML");

        assert_eq!(example, defaults);
    }

    #[test]
    fn the_example_explains_every_key() {
        let mut unexplained = Vec::new();
        let mut above = "";
        for line in EXAMPLE_CONFIG.lines() {
            let is_key = line.contains(" = ") && !line.starts_with('#');
            // Adjacent keys share one comment.
            if is_key && !above.starts_with('#') && !above.contains(" = ") {
                unexplained.push(line);
            }
            above = line;
        }

        assert!(unexplained.is_empty(), "{unexplained:?}");
    }

    #[test]
    fn the_example_equals_the_defaults() {
        let config = Config::from_sources("config.example.toml", EXAMPLE_CONFIG, vec![]);

        assert_eq!(config.expect("is valid"), Config::default());
    }

    #[test]
    fn the_example_of_a_provider_has_every_key_with_its_default() {
        let (_, section) = EXAMPLE_CONFIG
            .split_once("#[[oauth.providers]]")
            .expect("has a provider");
        let section = section.split("\n\n").next().expect("has an end");
        let keys = section.lines().filter_map(|line| line.strip_prefix('#'));
        let keys: Vec<&str> = keys.filter(|line| line.contains(" = ")).collect();

        let mut example: Table = keys.join("\n").parse().expect("is TOML");
        let mut defaults = Table::try_from(ProviderSection::default()).expect("can be written");
        let names = |table: &Table| table.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&example), names(&defaults));
        for key in ["id", "name", "issuer", "client_id", "client_secret"] {
            example.remove(key);
            defaults.remove(key);
        }
        assert_eq!(example, defaults);
    }

    #[test]
    fn a_listener_on_all_addresses_is_named_after_the_server() {
        let listen = ListenSection {
            address: "0.0.0.0:80".parse().expect("is an address"),
            ..ListenSection::default()
        };

        assert_eq!(listen.url("a.example").as_str(), "http://a.example");
    }
}
