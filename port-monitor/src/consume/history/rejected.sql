-- Version 3: what a receiver got, and does not take.

ALTER TABLE exports ADD COLUMN rejected INTEGER NOT NULL DEFAULT 0;
