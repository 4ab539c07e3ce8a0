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
