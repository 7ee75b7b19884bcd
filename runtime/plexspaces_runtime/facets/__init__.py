"""What can be wrapped around an actor by configuration: virtual, durable, limited, authorised, measured."""
