-- What of a workspace's brand is not its tenant's; null if it has none of its own.
alter table workspaces add column branding text;
