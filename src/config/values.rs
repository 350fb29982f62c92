//! Types that cannot hold a wrong value.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use ipnet::IpNet;
use ruma::RoomVersionId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use url::Url;

/// The text that is shown instead of a secret.
const SECRET_PLACEHOLDER: &str = "…";

/// A text that is never shown in logs or error messages.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretString(String);

impl SecretString {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Returns the secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SECRET_PLACEHOLDER)
    }
}

impl Serialize for SecretString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(SECRET_PLACEHOLDER)
    }
}

/// The URL of a database: `sqlite:PATH` or `postgres://…`. It may contain a password, so it is not shown.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Parses a URL. Returns `None` if it belongs to neither kind of database.
    pub fn parse(url: &str) -> Option<Self> {
        let known = ["sqlite:", "postgres://", "postgresql://"];
        let place = known.iter().find_map(|prefix| url.strip_prefix(prefix))?;
        (!place.is_empty()).then(|| Self(url.to_owned()))
    }

    /// Returns the URL of an SQLite file.
    pub(super) fn sqlite(path: &str) -> Self {
        Self(format!("sqlite:{path}"))
    }

    /// Returns the URL with its password, if it has one.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.split(':').next().unwrap_or_default();
        write!(f, "{scheme}:{SECRET_PLACEHOLDER}")
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?)
            .ok_or_else(|| D::Error::custom("expected `sqlite:PATH` or `postgres://…`"))
    }
}

/// An `http` or `https` URL with nothing after the host and port, and without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct BaseUrl(String);

impl BaseUrl {
    /// Parses a URL. Returns `None` if it is not a bare `http` or `https` URL.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let is_bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
        (is_bare && is_web).then(|| Self(url.as_str().trim_end_matches('/').to_owned()))
    }

    pub(super) fn from_parts(scheme: &str, host: &str, port: Option<u16>) -> Self {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        Self(format!("{scheme}://{host}{port}"))
    }

    /// Returns the URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the address has TLS.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// Returns the host and the port, which is always included.
    pub fn host_and_port(&self) -> String {
        let (scheme, authority) = self.0.split_once("://").unwrap_or_default();
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        match (has_port, scheme) {
            (true, _) => authority.to_owned(),
            (false, "https") => format!("{authority}:443"),
            (false, _) => format!("{authority}:80"),
        }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).ok_or_else(|| {
            D::Error::custom(
                "expected an address like `https://matrix.example.org`, without a path",
            )
        })
    }
}

/// The part of a user id before the colon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Localpart(String);

impl Localpart {
    /// The maximum length, which leaves room for the server name.
    const MAX_LOCALPART_BYTES: usize = 100;

    /// Parses a localpart. Returns `None` if new user ids may not have it.
    pub fn parse(text: &str) -> Option<Self> {
        let is_allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._=-/+".contains(&b);
        let fits =
            (1..=Self::MAX_LOCALPART_BYTES).contains(&text.len()) && text.bytes().all(is_allowed);
        fits.then(|| Self(text.to_owned()))
    }

    /// Returns the localpart as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Localpart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).ok_or_else(|| {
            D::Error::custom("expected 1 to 100 characters of a-z, 0-9, ., _, =, -, / and +")
        })
    }
}

/// An IP network, such as `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNetwork(IpNet);

impl IpNetwork {
    /// Returns whether an address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for IpNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address)),
            Err(_) => text.parse::<IpNet>(),
        };
        let wrong =
            |_| "expected an IP address or a network, like `127.0.0.1` or `10.0.0.0/8`".to_owned();
        network.map(Self).map_err(wrong)
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for IpNetwork {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IpNetwork {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A header in which a reverse proxy names the address of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AddressHeader {
    /// `Forwarded`, defined by RFC 7239.
    #[serde(rename = "Forwarded")]
    Forwarded,
    /// `X-Forwarded-For`: all addresses on the way, that of the client first.
    #[serde(rename = "X-Forwarded-For")]
    XForwardedFor,
    /// `X-Real-IP`: one address.
    #[serde(rename = "X-Real-IP")]
    XRealIp,
}

impl AddressHeader {
    const ALL_HEADERS: [Self; 3] = [Self::Forwarded, Self::XForwardedFor, Self::XRealIp];

    /// Returns the name of the header in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::XForwardedFor => "x-forwarded-for",
            Self::XRealIp => "x-real-ip",
        }
    }
}

impl<'de> Deserialize<'de> for AddressHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut all = Self::ALL_HEADERS.into_iter();
        all.find(|header| header.name().eq_ignore_ascii_case(&text))
            .ok_or_else(|| {
                D::Error::custom("expected `Forwarded`, `X-Forwarded-For` or `X-Real-IP`")
            })
    }
}

/// The files that the deprecated media endpoints serve without an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LegacyMedia {
    /// Files that were uploaded before the freeze.
    Frozen,
    All,
    None,
}

impl<'de> Deserialize<'de> for LegacyMedia {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The key was a boolean before the freeze was introduced.
        let word = toml::Value::deserialize(deserializer)?;
        match word
            .as_str()
            .or(word.as_bool().map(|all| if all { "all" } else { "none" }))
        {
            Some("frozen") => Ok(Self::Frozen),
            Some("all" | "true") => Ok(Self::All),
            Some("none" | "false") => Ok(Self::None),
            _ => Err(D::Error::custom("expected `frozen`, `all` or `none`")),
        }
    }
}

/// Writes an unset key as an empty string, so that an environment variable can unset it, too.
pub(super) mod empty_is_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::IntoDeserializer};

    #[expect(clippy::ref_option, reason = "serde hands over the field as it is")]
    pub(in crate::config) fn serialize<T, S>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error>
    where
        T: Serialize,
        S: Serializer,
    {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }

    pub(in crate::config) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        T::deserialize(text.into_deserializer()).map(Some)
    }
}

/// Reads a whole number from `MIN` to `MAX`.
pub(super) fn between<'de, const MIN: u64, const MAX: u64, T, D>(
    deserializer: D,
) -> Result<T, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    let wrong = || D::Error::custom(format!("expected a whole number from {MIN} to {MAX}"));
    let number = i64::deserialize(deserializer).map_err(|_| wrong())?;
    let number = u64::try_from(number).map_err(|_| wrong())?;
    if !(MIN..=MAX).contains(&number) {
        return Err(wrong());
    }
    T::try_from(number).map_err(|_| wrong())
}

/// The room versions that new rooms may have.
const ROOM_VERSIONS: [RoomVersionId; 7] = [
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

pub(super) fn room_version<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<RoomVersionId, D::Error> {
    let version = RoomVersionId::deserialize(deserializer)?;
    if !ROOM_VERSIONS.contains(&version) {
        let allowed: Vec<String> = ROOM_VERSIONS.iter().map(|v| format!("`{v}`")).collect();
        let allowed = allowed.join(", ");
        return Err(D::Error::custom(format!("expected one of {allowed}")));
    }
    Ok(version)
}

/// Reads a log filter in the syntax of `tracing`.
pub(super) fn filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let filter = String::deserialize(deserializer)?;
    if !is_log_filter(&filter) {
        return Err(D::Error::custom(
            "expected a level (`error`, `warn`, `info`, `debug`, `trace`, `off`), or a list like \
             `info,parlour=debug` with a level for everything or for `parlour`",
        ));
    }
    Ok(filter)
}

/// Returns whether a text is a filter with levels. `tracing` treats any other word as the name of a module, and then
/// logs only that module.
fn is_log_filter(filter: &str) -> bool {
    // Fields of spans can contain commas.
    let is_simple = !filter.contains('{');
    let is_level = |word: &str| {
        let is_word = !word.is_empty() && word.parse::<LevelFilter>().is_ok();
        is_word || word.contains('=')
    };
    let words = || filter.split(',').map(str::trim);
    // A list without a default level shows only what it names.
    let shows_parlour = |word: &str| {
        let target = word.split_once('=').map(|(target, _)| target);
        target.is_none_or(|target| {
            target.split("::").next() == Some("parlour") || target.contains('[')
        })
    };
    let has_levels = !is_simple || words().all(is_level) && words().any(shows_parlour);
    has_levels && EnvFilter::try_new(filter).is_ok()
}

/// Reads a path that is not empty.
pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.as_os_str().is_empty() {
        return Err(D::Error::custom("expected a path"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secret = SecretString::new("swordfish");
        let url = DatabaseUrl::parse("postgres://me:swordfish@db/parlour").expect("is valid");

        assert_eq!(format!("{secret:?}"), "…");
        assert_eq!(format!("{url:?}"), "postgres:…");
    }

    #[test]
    fn a_base_url_has_no_path_and_no_trailing_slash() {
        let parsed = |text| BaseUrl::parse(text).map(|url| url.to_string());

        assert_eq!(
            parsed("https://a.example/").as_deref(),
            Some("https://a.example")
        );
        assert_eq!(
            parsed("http://[::1]:8008").as_deref(),
            Some("http://[::1]:8008")
        );
        assert_eq!(parsed("https://a.example/matrix"), None);
        assert_eq!(parsed("ftp://a.example"), None);
        assert_eq!(parsed("https://me:you@a.example"), None);
    }

    #[test]
    fn a_log_filter_contains_levels() {
        for filter in [
            "info",
            "DEBUG",
            "off",
            "info,parlour=debug",
            "warn,parlour::sync=trace",
            "parlour=debug",
            "info,sqlx=debug",
        ] {
            assert!(is_log_filter(filter), "{filter}");
        }
        for filter in [
            "verbose",
            "",
            "info,verbose",
            "parlour",
            "info,parlour=loud",
            "info,",
            "parluor=debug",
            "sqlx=debug",
        ] {
            assert!(!is_log_filter(filter), "{filter}");
        }
    }

    #[test]
    fn a_network_is_an_address_or_has_a_prefix() {
        let network = |text: &str| text.parse::<IpNetwork>();
        let contains = |text: &str, address: &str| {
            let address = address.parse().expect("is an address");
            network(text).expect("is a network").contains(address)
        };

        assert!(contains("10.0.0.0/8", "10.20.30.40"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("127.0.0.1", "127.0.0.1"));
        assert!(contains("2001:db8::/32", "2001:db8::7"));
        assert!(network("proxy.example").is_err());
        assert!(network("10.0.0.0/33").is_err());
    }

    #[test]
    fn the_port_of_a_base_url_is_always_known() {
        let port_of = |text| BaseUrl::parse(text).expect("is valid").host_and_port();

        assert_eq!(port_of("https://a.example"), "a.example:443");
        assert_eq!(port_of("http://a.example"), "a.example:80");
        assert_eq!(port_of("https://a.example:8448"), "a.example:8448");
        assert_eq!(port_of("https://[2001:db8::1]"), "[2001:db8::1]:443");
    }
}
