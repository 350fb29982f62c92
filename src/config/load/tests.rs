use std::path::PathBuf;

use ruma::RoomVersionId;

use super::*;
use crate::config::{ListenSection, LogFormat, SecretString};

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let variables = variables
        .iter()
        .map(|(name, value)| ConfigVariable {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        })
        .collect();
    Config::from_sources("parlour.toml", text, variables).map_err(|e| e.to_string())
}

fn error(text: &str) -> String {
    read(text, &[]).expect_err("is wrong")
}

fn error_of_variable(name: &str, value: &str) -> String {
    read("", &[(name, value)]).expect_err("is wrong")
}

#[test]
fn no_configuration_is_the_default() {
    let config = read("", &[]).expect("is valid");

    assert_eq!(config, Config::default());
    assert_eq!(config.public_url().as_str(), "http://127.0.0.1:8008");
    assert_eq!(
        config.media_directory(),
        PathBuf::from("parlour-data/media")
    );
}

#[test]
fn keys_missing_in_a_file_keep_their_defaults() {
    let config = read(
        r#"
        [server]
        name = "localhost:8448"
        default_room_version = "11"
        [[listen]]
        address = "0.0.0.0:8448"
        tls_certificate = "fullchain.pem"
        tls_key = "privkey.pem"
        "#,
        &[],
    )
    .expect("is valid");

    assert_eq!(config.server.name.as_str(), "localhost:8448");
    assert_eq!(config.server.default_room_version, RoomVersionId::V11);
    assert_eq!(config.public_url().as_str(), "https://localhost:8448");
    assert_eq!(config.passwords, Config::default().passwords);
}

#[test]
fn the_environment_takes_precedence_over_the_file() {
    let config = read(
        "[server]\nname = 'a.example'\n[limits]\nenabled = true",
        &[
            ("PARLOUR__SERVER__NAME", "b.example"),
            ("PARLOUR__LIMITS__ENABLED", "false"),
            ("PARLOUR__PASSWORDS__MEMORY_KIB", "8"),
            ("PARLOUR__LOGGING__FORMAT", "json"),
            ("PARLOUR__METRICS__ADDRESS", "127.0.0.1:9000"),
        ],
    )
    .expect("is valid");

    assert_eq!(config.server.name.as_str(), "b.example");
    assert!(!config.limits.enabled);
    assert_eq!(config.passwords.memory_kib, 8);
    assert_eq!(config.logging.format, LogFormat::Json);
    assert_eq!(config.metrics.address, "127.0.0.1:9000".parse().ok());
}

#[test]
fn lists_in_the_environment_are_toml_or_separated_by_commas() {
    let expected = [PathBuf::from("a.pem"), PathBuf::from("b.pem")];

    let commas = read("", &[("PARLOUR__FEDERATION__TRUSTED_CA", "a.pem, b.pem")]);
    let toml = read(
        "",
        &[("PARLOUR__FEDERATION__TRUSTED_CA", r#"["a.pem", "b.pem"]"#)],
    );

    assert_eq!(commas.expect("is valid").federation.trusted_ca, expected);
    assert_eq!(toml.expect("is valid").federation.trusted_ca, expected);
}

#[test]
fn environment_variables_set_listeners_by_number() {
    let config = read(
        "",
        &[
            ("PARLOUR__LISTEN__0__ADDRESS", "127.0.0.1:1"),
            ("PARLOUR__LISTEN__1__ADDRESS", "127.0.0.1:2"),
            ("PARLOUR__LISTEN__1__TLS_CERTIFICATE", "c.pem"),
            ("PARLOUR__LISTEN__1__TLS_KEY", "k.pem"),
        ],
    )
    .expect("is valid");

    let plain = ListenSection {
        address: "127.0.0.1:1".parse().expect("is an address"),
        ..ListenSection::default()
    };
    let tls = ListenSection {
        address: "127.0.0.1:2".parse().expect("is an address"),
        tls_certificate: Some("c.pem".into()),
        tls_key: Some("k.pem".into()),
    };
    assert_eq!(config.listen, [plain, tls]);
}

#[test]
fn an_empty_text_unsets_a_key() {
    let config = read(
        "[registration]\nshared_secret = 'swordfish'",
        &[("PARLOUR__REGISTRATION__SHARED_SECRET", "")],
    );

    assert_eq!(config.expect("is valid").registration.shared_secret, None);
}

#[test]
fn an_unknown_key_is_named_with_the_known_ones() {
    assert_eq!(
        error("[server]\nnam = 'x'"),
        "parlour.toml: unknown key server.nam: expected one of `name`, `public_url`, `data_dir`, \
         `default_room_version`"
    );
    assert_eq!(
        error("[[listen]]\nport = 1"),
        "parlour.toml: unknown key listen[0].port: expected one of `address`, `tls_certificate`, `tls_key`"
    );
    assert!(
        error("[sever]").starts_with("parlour.toml: unknown key sever: expected one of `server`")
    );
}

#[test]
fn an_unknown_variable_is_named_with_the_known_keys() {
    assert_eq!(
        error_of_variable("PARLOUR__SERVER__NAM", "x"),
        "PARLOUR__SERVER__NAM: unknown key; the keys of server are data_dir, default_room_version, name, \
         public_url"
    );
    assert_eq!(
        error_of_variable("PARLOUR__LISTEN__0__PORT", "1"),
        "PARLOUR__LISTEN__0__PORT: unknown key; expected PARLOUR__LISTEN__<number>__<key>, and the keys of \
         listen are address, tls_certificate, tls_key"
    );
    assert!(error_of_variable("PARLOUR__SEVER__NAME", "x").starts_with(
        "PARLOUR__SEVER__NAME: unknown key; the sections are appservices, connections, database,"
    ));
    assert_eq!(
        error_of_variable("PARLOUR__LISTEN__7__ADDRESS", "127.0.0.1:1"),
        "PARLOUR__LISTEN__7__ADDRESS: expected the number of a listener from 0 to 0"
    );
}

#[test]
fn a_wrong_value_is_named_with_the_allowed_values() {
    assert_eq!(
        error("[server]\ndefault_room_version = '5'"),
        "parlour.toml: server.default_room_version = \"5\": expected one of `6`, `7`, `8`, `9`, `10`, `11`, \
         `12`"
    );
    assert_eq!(
        error("[limits]\nenabled = 'yes'"),
        "parlour.toml: limits.enabled = \"yes\": expected a boolean"
    );
    assert_eq!(
        error("[logging]\nformat = 'xml'"),
        "parlour.toml: logging.format = \"xml\": expected `human` or `json`"
    );
    assert_eq!(
        error("[passwords]\nmemory_kib = 1"),
        "parlour.toml: passwords.memory_kib = 1: expected a whole number from 8 to 4194304"
    );
    assert_eq!(
        error("[[listen]]\naddress = 'localhost'"),
        "parlour.toml: listen[0].address = \"localhost\": expected an IP address and a port, like \
         `127.0.0.1:8008`"
    );
    assert_eq!(
        error("[server]\nname = 'no spaces'"),
        "parlour.toml: server.name = \"no spaces\": expected a host name or IP address, like `example.org` \
         or `localhost:8448`"
    );
    assert_eq!(
        error("[server]\npublic_url = 'example.org'"),
        "parlour.toml: server.public_url = \"example.org\": expected an address like \
         `https://matrix.example.org`, without a path"
    );
    assert_eq!(
        error("server = 1"),
        "parlour.toml: server = 1: expected a section with keys"
    );
    assert_eq!(
        error("listen = []"),
        "parlour.toml: listen = []: expected at least one [[listen]] with an address"
    );
}

#[test]
fn a_wrong_environment_value_names_its_variable() {
    assert_eq!(
        error_of_variable("PARLOUR__PASSWORDS__ITERATIONS", "many"),
        "PARLOUR__PASSWORDS__ITERATIONS: passwords.iterations = \"many\": expected a whole number from 1 to \
         1000"
    );
    assert_eq!(
        error_of_variable("PARLOUR__LISTEN__0__ADDRESS", "8008"),
        "PARLOUR__LISTEN__0__ADDRESS: listen[0].address = \"8008\": expected an IP address and a port, like \
         `127.0.0.1:8008`"
    );
}

#[test]
fn a_wrong_value_of_a_secret_is_not_shown() {
    let message = error("[database]\nurl = 'mysql://me:swordfish@db'");

    assert_eq!(
        message,
        "parlour.toml: database.url = …: expected `sqlite:PATH` or `postgres://…`"
    );
}

#[test]
fn a_certificate_needs_its_key() {
    assert_eq!(
        error("[[listen]]\ntls_certificate = 'fullchain.pem'"),
        "parlour.toml: listen[0].tls_key is not set, but tls_certificate is: expected both or neither"
    );
}

#[test]
fn invalid_toml_is_reported_with_its_line() {
    let message = error("[server\nname = 'x'");

    assert!(
        message.starts_with("parlour.toml: TOML parse error at line 1"),
        "{message}"
    );
}

#[test]
fn the_keys_for_email_are_set_together() {
    let missing = |text: &str| error(&format!("[mail]\n{text}"));

    let address = missing("smtp_host = \"localhost\"");
    assert!(address.contains("mail.from is not set"), "{address}");
    let host = missing("from = \"noreply@example.org\"");
    assert!(host.contains("mail.smtp_host is not set"), "{host}");
    let complete = "smtp_host = \"localhost\"\nfrom = \"noreply@example.org\"";
    let password = missing(&format!("{complete}\nsmtp_username = \"me\""));
    assert!(
        password.contains("mail.smtp_password is not set"),
        "{password}"
    );
    assert!(read(&format!("[mail]\n{complete}"), &[]).is_ok());
    let required = error("[registration]\nrequire_email = true");
    assert!(required.contains("mail.smtp_host is not set"), "{required}");
}

#[test]
fn the_keys_for_calls_are_set_together() {
    let read_rtc = |text: &str| read(&format!("[rtc]\n{text}"), &[]);
    let missing = |text: &str| read_rtc(text).expect_err("is incomplete");
    let url = "livekit_url = 'wss://rtc.example.org'\n";

    assert_eq!(
        missing(url),
        "parlour.toml: rtc.key is not set, but rtc.livekit_url is: expected all keys of [rtc] or none"
    );
    let secret = missing(&format!("{url}key = 'parlour'"));
    assert!(secret.contains("rtc.secret is not set"), "{secret}");
    let url_missing = missing("key = 'parlour'\nsecret = 'swordfish'");
    assert!(
        url_missing.contains("rtc.livekit_url is not set"),
        "{url_missing}"
    );
    let complete = read_rtc(&format!("{url}key = 'parlour'\nsecret = 'swordfish'"));
    let livekit = complete.expect("is valid").rtc.livekit();
    assert_eq!(livekit.expect("is set").secret.expose(), "swordfish");
    assert!(Config::default().rtc.livekit().is_none());
}

#[test]
fn a_wrong_value_in_the_section_for_calls_is_named_without_the_secret() {
    assert_eq!(
        error("[rtc]\nlivekit_url = 'rtc.example.org'"),
        "parlour.toml: rtc.livekit_url = \"rtc.example.org\": expected an address like \
         `wss://livekit.example.org`"
    );
    let secret = error("[rtc]\nsecret = 5");
    assert!(
        secret.starts_with("parlour.toml: rtc.secret = …"),
        "{secret}"
    );
}

/// The keys of a provider that have no default.
const PROVIDER: &str = "[[oauth.providers]]
id = 'one'
name = 'One'
issuer = 'https://one.example'
client_id = 'parlour'
";

#[test]
fn a_provider_needs_few_keys() {
    let config = read(PROVIDER, &[]).expect("is valid");

    let provider = &config.oauth.providers[0];
    assert_eq!(provider.scopes, ["openid", "profile", "email"]);
    assert!(provider.allow_registration && !provider.allow_linking_by_email);
    for missing in ["id", "name", "issuer", "client_id"] {
        let lines = PROVIDER.lines();
        let rest: Vec<&str> = lines
            .filter(|line| !line.starts_with(&format!("{missing} ")))
            .collect();
        assert_eq!(
            error(&rest.join("\n")),
            format!("parlour.toml: oauth.providers[0].{missing}: is not set")
        );
    }
}

#[test]
fn the_issuer_of_a_provider_has_tls_unless_it_is_on_the_same_machine() {
    let with_issuer = |issuer: &str| PROVIDER.replace("https://one.example", issuer);

    for allowed in [
        "https://one.example/realms/main",
        "http://localhost:8080/",
        "http://127.0.0.1:1",
        "http://[::1]:1",
    ] {
        let config = read(&with_issuer(allowed), &[]).expect("is valid");
        assert_eq!(config.oauth.providers[0].issuer, allowed);
    }
    assert_eq!(
        error(&with_issuer("http://one.example")),
        "parlour.toml: oauth.providers[0].issuer = \"http://one.example\": expected `https://`; only a provider \
         on the same machine can be without TLS"
    );
    for wrong in ["one.example", "https://one.example/?a", "ftp://one.example"] {
        let message = error(&with_issuer(wrong));
        assert!(message.contains("expected a URL like"), "{message}");
    }
}

#[test]
fn the_ids_of_providers_are_unique_and_fit_into_addresses() {
    let wrong = error(&PROVIDER.replace("'one'", "'o/ne'"));
    assert!(wrong.contains("expected 1 to 64 characters"), "{wrong}");
    let twice = error(&format!("{PROVIDER}{PROVIDER}"));
    assert_eq!(
        twice,
        "parlour.toml: oauth.providers[1].id: another provider has the same id"
    );
}

#[test]
fn passwords_cannot_be_switched_off_without_a_provider() {
    let off = "[oauth]\npassword_login = false\n";
    let alone = error(off);
    assert!(alone.contains("nobody could log in"), "{alone}");
    assert!(read(&format!("{off}{PROVIDER}"), &[]).is_ok());
    let without_pages = error(&format!("[oauth]\nenabled = false\n{PROVIDER}"));
    assert!(
        without_pages.contains("oauth.enabled is false"),
        "{without_pages}"
    );
    let without_openid = error(&format!("{PROVIDER}scopes = ['email']"));
    assert!(without_openid.contains("`openid`"), "{without_openid}");
}

#[test]
fn an_environment_variable_sets_the_secret_of_a_provider() {
    let name = "PARLOUR__OAUTH__PROVIDERS__0__CLIENT_SECRET";
    let config = read(PROVIDER, &[(name, "swordfish")]).expect("is valid");

    let secret = config.oauth.providers[0].client_secret.as_ref();
    assert_eq!(secret.map(SecretString::expose), Some("swordfish"));
    assert_eq!(
        error_of_variable("PARLOUR__OAUTH__PROVIDERS__1__ID", "x"),
        "PARLOUR__OAUTH__PROVIDERS__1__ID: expected the number of a provider from 0 to 0"
    );
    let unknown = error_of_variable("PARLOUR__OAUTH__PROVIDERS__0__ISUER", "x");
    assert!(
        unknown.contains("the keys of oauth.providers are allow_linking_by_email,"),
        "{unknown}"
    );
    let secret = error(&format!("{PROVIDER}client_secret = 5"));
    assert!(secret.contains("client_secret = …"), "{secret}");
}
