-- The shop's one database. Cutting a monolith into contexts begins with its
-- code: the tables stay where they are, but each has one owner, and the others
-- learn what happened from events.

-- shop
CREATE TABLE customers (
    id     text    PRIMARY KEY,
    credit integer NOT NULL CHECK (credit >= 0)
);
CREATE TABLE orders (
    id       bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text    NOT NULL,
    sku      text    NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    state    text    NOT NULL DEFAULT 'placed',
    reserved boolean NOT NULL DEFAULT false -- what reservation said last
);

-- reservation
CREATE TABLE stock (
    sku       text    PRIMARY KEY,
    available integer NOT NULL CHECK (available >= 0)
);
CREATE TABLE reservations (
    order_id bigint  PRIMARY KEY, -- no foreign key: orders are the shop's
    sku      text    NOT NULL,
    quantity integer NOT NULL
);
CREATE TABLE reservation_inbox (
    event_id uuid PRIMARY KEY
);

-- audit
CREATE TABLE audit_trail (
    event_id    uuid        PRIMARY KEY,
    order_id    bigint      NOT NULL,
    position    text        NOT NULL COLLATE "C",
    type        text        NOT NULL,
    happened_at timestamptz NOT NULL,
    content     json
);
CREATE INDEX ON audit_trail (order_id, position);

-- notification
CREATE TABLE mails (
    event_id uuid   PRIMARY KEY,
    order_id bigint NOT NULL,
    subject  text   NOT NULL
);

-- A shop that sells. Nobody lends to dan, and samovars are rare.
INSERT INTO customers VALUES ('ada', 1000000), ('ben', 1000000), ('cleo', 1000000), ('dan', 0);
INSERT INTO stock VALUES ('tea', 1000000), ('cup', 1000000), ('samovar', 25);
