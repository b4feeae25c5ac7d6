-- Rows of an older server that no part of this version knows, kept as they were until one does: billing.

create table carried_rows (
    tenant_id text not null, -- empty for what belongs to no tenant
    source    text not null, -- the table it comes from
    id        text not null,
    data      text not null, -- JSON
    primary key (tenant_id, source, id)
) strict, without rowid;
