package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/synapseadmin"
)

const (
	serverName         = "bridges.test"
	registrationSecret = "bridges"
)

// homeserver is a Matrix server that has the application services of the bridges.
type homeserver struct {
	process
	url string
	// Whether the server, when it stops, keeps every event that it still has to send to a bridge.
	keepsUnsentEvents bool
	// Whether the server asks bridges about an alias or a user id that a client looks up as a third-party one.
	looksUpThirdPartyIDs bool
}

// newParlour configures Parlour in a folder.
func newParlour(binary, folder string, registrations []string) (*homeserver, error) {
	address, err := prepareServer(folder)
	if err != nil {
		return nil, err
	}
	configuration := filepath.Join(folder, "config.toml")
	text := fmt.Sprintf(`
[server]
name = %q
public_url = "http://%s"
data_dir = %q

[[listen]]
address = %q

[registration]
shared_secret = %q

[passwords]
memory_kib = 8
iterations = 1

[federation]
enabled = false

[limits]
enabled = false

[appservices]
registrations = %s
allow_private_addresses = true

[logging]
filter = "info,parlour=debug"
`, serverName, address, filepath.Join(folder, "data"), address, registrationSecret, asJSON(registrations))
	if err := os.WriteFile(configuration, []byte(text), 0o600); err != nil {
		return nil, err
	}
	server := newHomeserver("parlour", folder, address, binary, "--config", configuration)
	server.keepsUnsentEvents = true
	server.looksUpThirdPartyIDs = true
	return server, nil
}

// newSynapse configures Synapse in a folder. Python is the interpreter of an environment in which it is installed.
func newSynapse(python, folder string, registrations []string) (*homeserver, error) {
	address, err := prepareServer(folder)
	if err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(address, ":")
	inFolder := func(name string) string { return filepath.Join(folder, name) }
	unlimited := map[string]any{"per_second": 100_000, "burst_count": 100_000}
	homeserverConfiguration := map[string]any{
		"server_name":                 serverName,
		"public_baseurl":              "http://" + address,
		"report_stats":                false,
		"pid_file":                    inFolder("pid"),
		"log_config":                  inFolder("log.yaml"),
		"signing_key_path":            inFolder("signing.key"),
		"media_store_path":            inFolder("media"),
		"database":                    map[string]any{"name": "sqlite3", "args": map[string]any{"database": inFolder("synapse.db")}},
		"trusted_key_servers":         []string{},
		"suppress_key_server_warning": true,
		"registration_shared_secret":  registrationSecret,
		"macaroon_secret_key":         "macaroons",
		"form_secret":                 "forms",
		"bcrypt_rounds":               4,
		"listeners": []any{map[string]any{
			"type":           "http",
			"port":           json.Number(port),
			"bind_addresses": []string{host},
			"resources":      []any{map[string]any{"names": []string{"client"}}},
		}},
		"app_service_config_files": registrations,
		"experimental_features": map[string]any{
			"msc2409_to_device_messages_enabled": true,
			"msc3202_device_masquerading":        true,
			"msc3202_transaction_extensions":     true,
		},
		"rc_message": unlimited,
		"rc_login":   map[string]any{"address": unlimited, "account": unlimited, "failed_attempts": unlimited},
		"rc_joins":   map[string]any{"local": unlimited, "remote": unlimited},
		"rc_invites": map[string]any{"per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited},
	}
	logging := map[string]any{
		"version":    1,
		"formatters": map[string]any{"line": map[string]any{"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
		"handlers":   map[string]any{"console": map[string]any{"class": "logging.StreamHandler", "formatter": "line"}},
		"root":       map[string]any{"level": "INFO", "handlers": []string{"console"}},
	}
	seed := make([]byte, 32)
	_, _ = rand.Read(seed)
	files := map[string]string{
		// JSON is YAML.
		"homeserver.yaml": asJSON(homeserverConfiguration),
		"log.yaml":        asJSON(logging),
		"signing.key":     "ed25519 bridges " + base64.RawStdEncoding.EncodeToString(seed) + "\n",
	}
	for name, content := range files {
		if err := os.WriteFile(inFolder(name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	configuration := inFolder("homeserver.yaml")
	return newHomeserver("synapse", folder, address, python, "-m", "synapse.app.homeserver", "-c", configuration), nil
}

func prepareServer(folder string) (address string, err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	return freePort(serverAddress)
}

func newHomeserver(name, folder, address string, command ...string) *homeserver {
	return &homeserver{
		process: process{name: name, logPath: filepath.Join(folder, "log"), command: command},
		url:     "http://" + address,
	}
}

func asJSON(value any) string {
	encoded, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(encoded)
}

// run starts the server, unless it runs already, and waits until it answers.
func (s *homeserver) run(ctx context.Context) error {
	if s.isRunning() {
		return nil
	}
	if err := s.start(); err != nil {
		return err
	}
	timeout := time.After(startTimeout)
	for !s.answers(ctx) {
		select {
		case <-s.ended:
			return fmt.Errorf("%s ended before it was ready; see %s", s.name, s.logPath)
		case <-timeout:
			return fmt.Errorf("%s is not ready; see %s", s.name, s.logPath)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

func (s *homeserver) answers(ctx context.Context) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/_matrix/client/versions", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// register creates an account.
func (s *homeserver) register(ctx context.Context, localpart, password string) error {
	client, err := mautrix.NewClient(s.url, "", "")
	if err != nil {
		return err
	}
	admin := &synapseadmin.Client{Client: client}
	_, err = admin.SharedSecretRegister(ctx, registrationSecret, synapseadmin.ReqSharedSecretRegister{
		Username: localpart,
		Password: password,
	})
	return err
}
