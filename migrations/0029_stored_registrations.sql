-- The registrations of application services that administrators added while the server ran; others are in files.
CREATE TABLE service_registrations (
    id TEXT PRIMARY KEY,
    -- YAML or JSON, as the administrator sent it
    registration TEXT NOT NULL
);
