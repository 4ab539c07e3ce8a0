-- The schema of 0.1.0 with rows of every table, for the upgrade test.
-- Written by `MIOSA_KEEP_SCHEMA=1 cargo nextest run -p miosa-store kept`, except the rows.
----- 0001_initial.sql
-- Portable subset (docs/adr/0003-portable-sql.md): text, bigint and blobs only; times are
-- milliseconds since 1970 UTC; no booleans; JSON is text.
create table installations (
    id text primary key not null,
    created_at_ms bigint not null
);

create table tenants (
    id text primary key not null,
    name text not null,
    slug text not null unique,
    deployment_domain text not null unique,
    preview_domain text,
    console_domain text unique,
    branding text,
    settings text not null default '{}',
    generation bigint not null default 1,
    created_at_ms bigint not null,
    updated_at_ms bigint not null
);

create table api_keys (
    id text primary key not null,
    tenant_id text not null references tenants (id),
    name text not null,
    -- SHA-256 of the key in hexadecimal digits; the key itself is shown once and never stored.
    key_hash text not null unique,
    key_prefix text not null,
    scopes text not null,
    is_operator bigint not null default 0,
    created_at_ms bigint not null,
    last_used_at_ms bigint,
    expires_at_ms bigint,
    revoked_at_ms bigint
);
create index api_keys_by_tenant on api_keys (tenant_id, id);

create table workspaces (
    id text primary key not null,
    tenant_id text not null references tenants (id),
    name text not null,
    slug text not null,
    description text,
    external_workspace_id text,
    metadata text not null default '{}',
    created_at_ms bigint not null,
    updated_at_ms bigint not null,
    unique (tenant_id, slug)
);

create table projects (
    id text primary key not null,
    tenant_id text not null references tenants (id),
    workspace_id text not null references workspaces (id),
    name text not null,
    slug text not null,
    description text,
    external_project_id text,
    metadata text not null default '{}',
    created_at_ms bigint not null,
    updated_at_ms bigint not null,
    unique (workspace_id, slug)
);

create table idempotency_keys (
    tenant_id text not null,
    key text not null,
    -- SHA-256 of method, path and body.
    fingerprint text not null,
    -- What the request made, written with it: a repeat after a crash finds it.
    made_id text,
    -- Null until the answer is known.
    status bigint,
    content_type text,
    body blob,
    created_at_ms bigint not null,
    primary key (tenant_id, key)
);

-- Intent: what the tenant asked for. What was observed is in memory, from `Provider::watch`.
create table sandboxes (
    id text primary key not null,
    tenant_id text not null references tenants (id),
    workspace_id text not null references workspaces (id),
    project_id text not null references projects (id),
    name text,
    slug text not null,
    preview_domain text not null,
    template text not null,
    -- The content that `template` named at create, so that a repeated start is the same start.
    template_digest text not null,
    memory_mib bigint not null,
    cpu_millis bigint not null,
    disk_mib bigint not null,
    -- The workload that is this sandbox: a claimed slot or its own.
    workload_id text not null unique,
    revision bigint not null,
    -- `warm` or `cold`.
    boot_path text not null,
    env text not null default '{}',
    metadata text not null default '{}',
    tags text not null default '[]',
    external_workspace_id text,
    external_project_id text,
    external_user_id text,
    timeout_s bigint not null,
    is_always_on bigint not null default 0,
    is_persistent bigint not null default 1,
    -- When the timeout runs out; null for a sandbox that is always on.
    expires_at_ms bigint,
    -- `running` or `destroyed`.
    desired text not null,
    -- Observations, written only from what the provider or the guest reported.
    ready_at_ms bigint,
    ended_at_ms bigint,
    end_reason text,
    generation bigint not null default 1,
    created_at_ms bigint not null,
    updated_at_ms bigint not null,
    -- Observation: nothing of it is left at the provider.
    destroyed_at_ms bigint
);
-- A slug is free again once its sandbox is not wanted any more.
create unique index sandboxes_by_slug on sandboxes (slug, preview_domain)
    where desired = 'running';
create index sandboxes_by_tenant on sandboxes (tenant_id, id);
create index sandboxes_by_name on sandboxes (tenant_id, name);
create index sandboxes_unfinished on sandboxes (destroyed_at_ms, id);

create table previews (
    id text primary key not null,
    tenant_id text not null,
    sandbox_id text not null references sandboxes (id),
    name text,
    port bigint not null,
    visibility text not null,
    metadata text not null default '{}',
    created_at_ms bigint not null,
    updated_at_ms bigint not null,
    deleted_at_ms bigint
);
create index previews_by_sandbox on previews (tenant_id, sandbox_id, id);

-- Who may see private ports. Tokens are shown once; only their digest is kept.
create table preview_tokens (
    id text primary key not null,
    tenant_id text not null,
    sandbox_id text not null references sandboxes (id),
    -- It opens its preview, or else its port; if both are null every port of the sandbox.
    preview_id text references previews (id),
    port bigint,
    token_digest text not null unique,
    prefix text not null,
    scope text not null,
    created_at_ms bigint not null,
    expires_at_ms bigint not null,
    revoked_at_ms bigint
);
create index preview_tokens_by_sandbox on preview_tokens (tenant_id, sandbox_id, expires_at_ms);
create index preview_tokens_live on preview_tokens (expires_at_ms);

-- Warm slots that control asked the provider for. `sandbox_id` is the compare-and-set field of a
-- claim; a claimed slot never returns to the pool.
create table pool_slots (
    workload_id text primary key not null,
    template text not null,
    template_digest text not null,
    memory_mib bigint not null,
    cpu_millis bigint not null,
    disk_mib bigint not null,
    sandbox_id text,
    created_at_ms bigint not null,
    claimed_at_ms bigint
);
create index pool_slots_free on pool_slots (sandbox_id, workload_id);

create table deployments (
    id text primary key not null,
    tenant_id text not null references tenants (id),
    workspace_id text not null references workspaces (id),
    project_id text not null references projects (id),
    name text not null,
    slug text not null,
    deployment_domain text not null,
    -- Stored defaults of a publish: kind, commands, port, health path, output path.
    settings text not null default '{}',
    metadata text not null default '{}',
    external_workspace_id text,
    external_project_id text,
    external_user_id text,
    replicas bigint not null default 1,
    hold_s bigint not null default 30,
    -- Intent: the version that shall serve. Null until the first is promoted.
    active_version_id text,
    -- Intent: `running` or `stopped`.
    desired text not null default 'running',
    -- Observation: the version whose replicas or files every leased edge serves.
    serving_version_id text,
    -- Observation: why the newest attempt failed, for the owner.
    failure text,
    generation bigint not null default 1,
    created_at_ms bigint not null,
    updated_at_ms bigint not null,
    deleted_at_ms bigint,
    unique (slug, deployment_domain)
);
create index deployments_by_tenant on deployments (tenant_id, created_at_ms, id);
create index deployments_by_name on deployments (tenant_id, project_id, name);

create table versions (
    id text primary key not null,
    tenant_id text not null,
    deployment_id text not null references deployments (id),
    number bigint not null,
    kind text,
    state text not null,
    source_sandbox_id text,
    -- Digest of the source snapshot, a tar of the workspace.
    source_digest text,
    -- What the caller asked of this publish (JSON: publish request).
    request text not null,
    -- The artifact: manifest of a site, or layer of an app.
    artifact_digest text,
    artifact_bytes bigint,
    artifact_files bigint,
    -- How to run it (JSON: command, port, health path, env); null for static.
    run text,
    template text not null,
    size text,
    -- Workload of its replicas; stable over restarts of the platform.
    workload_id text not null unique,
    -- Raised each time the workload is deleted, so that a later start is newer than that.
    revision bigint not null default 1,
    -- Whether it becomes the active version when it is ready.
    is_promoted_when_ready bigint not null,
    failure text,
    build_log text,
    created_at_ms bigint not null,
    updated_at_ms bigint not null,
    ready_at_ms bigint,
    promoted_at_ms bigint,
    -- Observation: when every leased edge first served it.
    served_at_ms bigint,
    archived_at_ms bigint,
    unique (deployment_id, number)
);
create index versions_by_state on versions (state, id);

-- Observations of runtime instances, kept for the owner after they ended.
create table instances (
    id text primary key not null,
    tenant_id text not null,
    deployment_id text not null,
    version_id text not null,
    state text not null,
    ip text,
    port bigint,
    restarts bigint not null default 0,
    error_message text,
    started_at_ms bigint not null,
    ready_at_ms bigint,
    last_seen_at_ms bigint not null,
    ended_at_ms bigint
);
create index instances_by_deployment on instances (tenant_id, deployment_id, id);

create table certificates (
    -- Comma-separated names, sorted.
    names text primary key not null,
    chain_pem text not null,
    key_pem text not null,
    not_after_ms bigint not null,
    created_at_ms bigint not null
);

create table events (
    id text primary key not null,
    tenant_id text not null,
    kind text not null,
    subject_id text not null,
    data text not null,
    created_at_ms bigint not null
);
create index events_by_tenant on events (tenant_id, id);
create index events_by_subject on events (subject_id, id);
----- 0002_domains.sql
-- Domains that tenants bring for their deployments. Several tenants may claim one name; who
-- proves that it is theirs holds it.
create table domains (
    id text primary key not null,
    tenant_id text not null references tenants (id),
    deployment_id text not null references deployments (id),
    domain text not null,
    -- The same as `domain` from proof to loss, otherwise null: no two can hold one name.
    holder text unique,
    -- What a text record has to say; the same for every claim of a tenant on a name.
    token text not null,
    -- Set by the operator: nothing has to be proved.
    is_trusted bigint not null default 0,
    -- `none`, `apex_to_www` or `www_to_apex`.
    redirect_policy text not null default 'none',
    external_workspace_id text,
    external_project_id text,
    external_user_id text,
    -- `pending`, `verified`, `active`, `failed` or `removed`.
    status text not null,
    -- Why the newest check did not find what it looked for.
    failure text,
    -- Checks in a row without proof.
    checks bigint not null default 0,
    -- Since when proof is waited for.
    waiting_since_ms bigint not null,
    -- Since when a held name has been found to be someone else's.
    doubt_since_ms bigint,
    next_check_at_ms bigint,
    verified_at_ms bigint,
    tls_issued_at_ms bigint,
    generation bigint not null default 1,
    created_at_ms bigint not null,
    updated_at_ms bigint not null,
    removed_at_ms bigint
);
create unique index domains_of_tenant on domains (tenant_id, domain) where removed_at_ms is null;
create index domains_by_deployment on domains (deployment_id, id);
create index domains_due on domains (next_check_at_ms);
----- 0003_rates_and_settings.sql
-- Requests per minute of a key that has a rate of its own.
alter table api_keys add column rate_limit_rpm bigint;

-- What the operator set on the running platform, over the configuration file; JSON by name.
create table platform_settings (
    name text primary key not null,
    value text not null,
    updated_at_ms bigint not null
);
----- 0004_workspace_branding.sql
-- What of a workspace's brand is not its tenant's; null if it has none of its own.
alter table workspaces add column branding text;
----- rows
insert into installations values ('01890000-0000-7000-8000-000000000001', 1);
insert into tenants (id, name, slug, deployment_domain, branding, created_at_ms, updated_at_ms)
    values ('01890000-0000-7000-8000-000000000002', 'Äcme', 'acme', 'acme.apps.example', '{"name":"Äcme"}', 2, 3);
insert into api_keys (id, tenant_id, name, key_hash, key_prefix, scopes, created_at_ms)
    values ('01890000-0000-7000-8000-000000000003', '01890000-0000-7000-8000-000000000002', 'first key', 'hash', 'msk_live_abc', '["*"]', 4);
insert into workspaces (id, tenant_id, name, slug, created_at_ms, updated_at_ms)
    values ('01890000-0000-7000-8000-000000000004', '01890000-0000-7000-8000-000000000002', 'Workspace', 'workspace', 5, 6);
insert into projects (id, tenant_id, workspace_id, name, slug, metadata, created_at_ms,
    updated_at_ms)
    values ('01890000-0000-7000-8000-000000000005', '01890000-0000-7000-8000-000000000002', '01890000-0000-7000-8000-000000000004', 'Project', 'project', '{"a":[1]}', 7, 8);
insert into idempotency_keys (tenant_id, key, fingerprint, made_id, status, content_type, body,
    created_at_ms)
    values ('01890000-0000-7000-8000-000000000002', 'key', 'fingerprint', '01890000-0000-7000-8000-000000000006', 201, 'text/plain', cast('hello' as blob), 9);
insert into sandboxes (id, tenant_id, workspace_id, project_id, name, slug, preview_domain,
    template, template_digest, memory_mib, cpu_millis, disk_mib, workload_id, revision, boot_path,
    env, tags, external_user_id, timeout_s, expires_at_ms, desired, ready_at_ms, generation,
    created_at_ms, updated_at_ms)
    values ('01890000-0000-7000-8000-000000000006', '01890000-0000-7000-8000-000000000002', '01890000-0000-7000-8000-000000000004', '01890000-0000-7000-8000-000000000005', 'dev', 'abc', 'apps.example', 'miosa-sandbox',
    '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881', 512, 500, 1024, '01890000-0000-7000-8000-000000000007', 1, 'warm', '{"A":"b"}', '["t"]', 'u1', 60, 70000,
    'running', 11, 2, 10, 11);
insert into previews (id, tenant_id, sandbox_id, name, port, visibility, created_at_ms,
    updated_at_ms)
    values ('01890000-0000-7000-8000-000000000008', '01890000-0000-7000-8000-000000000002', '01890000-0000-7000-8000-000000000006', 'web', 3000, 'private', 12, 12);
insert into preview_tokens (id, tenant_id, sandbox_id, preview_id, token_digest, prefix, scope,
    created_at_ms, expires_at_ms)
    values ('01890000-0000-7000-8000-000000000009', '01890000-0000-7000-8000-000000000002', '01890000-0000-7000-8000-000000000006', '01890000-0000-7000-8000-000000000008', '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881', 'prv_abc', 'view', 13, 80000);
insert into pool_slots (workload_id, template, template_digest, memory_mib, cpu_millis, disk_mib,
    created_at_ms)
    values ('01890000-0000-7000-8000-00000000000a', 'miosa-sandbox', '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881', 256, 250, 1024, 14);
insert into deployments (id, tenant_id, workspace_id, project_id, name, slug, deployment_domain,
    active_version_id, serving_version_id, generation, created_at_ms, updated_at_ms)
    values ('01890000-0000-7000-8000-00000000000b', '01890000-0000-7000-8000-000000000002', '01890000-0000-7000-8000-000000000004', '01890000-0000-7000-8000-000000000005', 'Shop', 'shop', 'acme.apps.example',
    '01890000-0000-7000-8000-00000000000c', '01890000-0000-7000-8000-00000000000c', 2, 15, 16);
insert into versions (id, tenant_id, deployment_id, number, kind, state, source_sandbox_id,
    source_digest, request, artifact_digest, artifact_bytes, artifact_files, run, template, size,
    workload_id, is_promoted_when_ready, build_log, created_at_ms, updated_at_ms, ready_at_ms,
    promoted_at_ms, served_at_ms)
    values ('01890000-0000-7000-8000-00000000000c', '01890000-0000-7000-8000-000000000002', '01890000-0000-7000-8000-00000000000b', 1, 'dynamic', 'ready', '01890000-0000-7000-8000-000000000006', '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881', '{}',
    '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881', 4096, 3, '{"command":"npm start"}', 'miosa-sandbox', '{"memory_mib":256,"cpu_millis":250,"disk_mib":1024}', '01890000-0000-7000-8000-00000000000d', 1,
    'built', 17, 18, 18, 19, 20);
insert into instances (id, tenant_id, deployment_id, version_id, state, ip, port, started_at_ms,
    ready_at_ms, last_seen_at_ms)
    values ('01890000-0000-7000-8000-00000000000e', '01890000-0000-7000-8000-000000000002', '01890000-0000-7000-8000-00000000000b', '01890000-0000-7000-8000-00000000000c', 'healthy', '10.0.0.2', 3000, 21, 22, 23);
insert into certificates values ('*.apps.example,apps.example', 'chain', 'key', 90000, 24);
insert into events values ('01890000-0000-7000-8000-00000000000f', '01890000-0000-7000-8000-000000000002', 'deployment.promoted', '01890000-0000-7000-8000-00000000000b', '{}', 25);
insert into domains (id, tenant_id, deployment_id, domain, holder, token, redirect_policy,
    external_user_id, status, waiting_since_ms, next_check_at_ms, verified_at_ms, tls_issued_at_ms,
    generation, created_at_ms, updated_at_ms)
    values ('01890000-0000-7000-8000-000000000010', '01890000-0000-7000-8000-000000000002', '01890000-0000-7000-8000-00000000000b', 'www.shop.example', 'www.shop.example', 'token', 'apex_to_www',
    'u1', 'active', 26, 90000, 27, 28, 2, 26, 28);
insert into platform_settings (name, value, updated_at_ms) values ('pool_targets', '[]', 9);
