-- Version 4: what is on its way to a receiver that knows what it has already.

-- All up to this number is, and may have arrived; below `sent_to` it means nothing.
ALTER TABLE exports ADD COLUMN sending_to INTEGER NOT NULL DEFAULT 0;
