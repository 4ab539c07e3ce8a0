-- Requests per minute of a key that has a rate of its own.
alter table api_keys add column rate_limit_rpm bigint;

-- What the operator set on the running platform, over the configuration file; JSON by name.
create table platform_settings (
    name text primary key not null,
    value text not null,
    updated_at_ms bigint not null
);
